"""What is played is recorded as `record` records: whole or not at all, and never over something else."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fastdreamer.envs.crafter import CrafterEnv
from fastdreamer.errors import UserError
from fastdreamer.play import recorder as module
from fastdreamer.play.loaded import Loaded
from fastdreamer.play.recorder import Recorder, lost_episodes, seeds_in
from fastdreamer.play.session import Session
from fastdreamer.recordings.actions import action_space
from fastdreamer.recordings.find import find_recordings
from fastdreamer.recordings.read import read_recording
from fastdreamer.recordings.trajectory import Trajectory

pytest.importorskip("crafter")


def names(root: Path) -> list[str]:
    return sorted(path.name for path in (root / "Crafter-human").iterdir())


def read(root: Path, name: str) -> Trajectory:
    (found,) = (recording for recording in find_recordings(root) if recording.name == name)
    return read_recording(found, action_space("crafter"))


@pytest.mark.parametrize("kind", ["single", "chunked"])
def test_an_episode_is_what_its_seed_and_actions_give(
    request: pytest.FixtureRequest, kind: str, tmp_path: Path
) -> None:
    loaded: Loaded = request.getfixturevalue(kind)
    session, c = Session(loaded, tmp_path), loaded.clock.frames_per_latent
    session.start(seed=7)
    for action in (1, 2, 3, 4):
        assert session.step([action]).said["recording"] is not None
    session.rewind(2)
    session.choose(who="random")
    view = session.step()
    played = [[1]] * c + [[2]] * c + view.said["action"]
    name = f"v3_human_crafter-7_0-{3 * c}"
    assert view.said["recording"] == name and names(tmp_path) == []
    session.close()
    assert names(tmp_path) == [name] and not list(tmp_path.glob(".playing*"))
    episode = read(tmp_path, name)
    env = CrafterEnv(7, 100)
    frames, rewards = [env.reset()], []
    for (action,) in played:
        frame, reward, *_ = env.step(action)
        frames.append(frame)
        rewards.append(reward)
    assert np.array_equal(episode.frames, np.stack(frames)) and episode.actions.tolist() == played
    assert np.allclose(episode.rewards, rewards) and not episode.terminals.any() and episode.valid.all()
    assert {name: int(values[-1]) for name, values in episode.counters.items()} == env.counters
    metadata = episode.metadata
    wanted = {"policy": "human", "seed": 7, "terminated": False, "truncated": True, "recorder": "fastdreamer"}
    assert wanted.items() <= metadata.items() and metadata["achievements"] == env.unlocked
    assert metadata["players"] == {"you": 2 * c, "random": c} and metadata["duration_steps"] == 3 * c


def test_a_death_is_written_at_once_and_withdrawn_when_it_is_gone_back_on(single: Loaded, tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, 100)
    env = CrafterEnv(7, 100)
    frame = env.reset()
    recorder.begin(7, frame, env.counters)
    for _ in range(3):
        frame, reward, *_ = env.step(1)
        recorder.add(frame[None], np.array([[1]]), np.array([reward], np.float32), [env.counters], "you")
    recorder.write(True, env.unlocked)
    assert names(tmp_path) == ["v3_human_crafter-7_0-3"]
    assert json.loads((tmp_path / "Crafter-human" / names(tmp_path)[0] / "metadata.json").read_text())["terminated"]
    recorder.cut(3)
    assert names(tmp_path) == ["v3_human_crafter-7_0-3"], "nothing was taken back"
    recorder.cut(2)
    assert names(tmp_path) == [] and recorder.name == "v3_human_crafter-7_0-2"
    recorder.finish(["collect_wood"])
    assert names(tmp_path) == ["v3_human_crafter-7_0-2"] and recorder.name is None
    assert not read(tmp_path, "v3_human_crafter-7_0-2").terminals.any()


def test_no_recording_gives_way_to_another(single: Loaded, tmp_path: Path) -> None:
    session = Session(single, tmp_path)
    for action in (1, 2):
        session.start(seed=7)
        session.step([action])
    session.close()
    assert names(tmp_path) == ["v3_human2_crafter-7_0-1", "v3_human_crafter-7_0-1"]
    assert read(tmp_path, "v3_human2_crafter-7_0-1").actions.tolist() == [[2]]
    other = Session(single, tmp_path)
    first = other.view().said["episode"]
    other.step([1])
    other.close()
    assert Session(single, tmp_path).view().said["episode"] != first, "a world that is there is not given again"
    assert seeds_in(tmp_path) >= {7, int(first.rpartition("-")[2])}


def test_what_is_not_played_from_the_first_frame_is_not_recorded(single: Loaded, tmp_path: Path) -> None:
    session = Session(single, tmp_path)
    assert session.describe()["records"] and session.view().said["recording"].endswith("_0-0")
    assert session.start(recording=0, step=4).said["recording"] is None
    assert session.step([1]).said["recording"] is None
    session.close()
    assert names(tmp_path) == [], "an episode without an action is none either"


def test_worlds_of_evaluation_are_not_recorded(single: Loaded, tmp_path: Path) -> None:
    from dataclasses import replace

    from fastdreamer.play.fresh_worlds import FIRST_WORLD

    session = Session(replace(single, taken=frozenset({9, FIRST_WORLD})), tmp_path)
    assert session.view().said["episode"] == f"crafter-{FIRST_WORLD + 1}"
    with pytest.raises(UserError, match="world 9 is one of the run's own"):
        session.start(seed=9)


def test_a_full_disk_is_one_line_and_loses_nothing(
    single: Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = Session(single, tmp_path)
    session.start(seed=7)
    for action in (1, 2):
        session.step([action])
    from fastdreamer.recordings import writer

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(writer, "_write_video", full)
        with pytest.raises(UserError, match="disk is full"):
            session.start(seed=8)
        assert session.view().said["episode"] == "crafter-7" and names(tmp_path) == []
        assert session.step([3]).said["recording"] == "v3_human_crafter-7_0-3"
    with monkeypatch.context() as patch:
        patch.setattr(Recorder, "_put", full)
        with pytest.raises(UserError, match="disk is full.* first 3 actions are kept"):
            session.step([4])
    view = session.step([5])
    assert view.said["step"] == 5 and view.said["recording"] == "v3_human_crafter-7_0-3"
    session.start(seed=8)
    assert read(tmp_path, "v3_human_crafter-7_0-3").actions.tolist() == [[1], [2], [3]]
    session.step([1])
    with monkeypatch.context() as patch:
        patch.setattr(writer, "_write_video", full)
        with pytest.raises(UserError, match="v3_human_crafter-8_0-1 could not be written and is lost"):
            session.close()


def test_a_folder_that_cannot_be_written_is_one_line(single: Loaded, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="cannot write recordings"):
        Session(single, tmp_path / "file")


KILLED = """
import os, sys
from pathlib import Path
import numpy as np
from fastdreamer.play.recorder import Recorder
recorder = Recorder(Path(sys.argv[1]), 100)
frame = np.zeros((64, 64, 3), np.uint8)
recorder.begin(41, frame, {"wood": 0})
recorder.add(frame[None], np.array([[1]]), np.zeros(1, np.float32), [{"wood": 0}], "you")
os.kill(os.getpid(), 9)
"""


def test_a_killed_server_loses_the_episode_in_hand_alone_and_the_next_one_says_which(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=False)
    assert names(tmp_path) == [] and 41 in seeds_in(tmp_path)
    living = Recorder(tmp_path, 100)
    living.begin(42, np.zeros((64, 64, 3), np.uint8), {"wood": 0})
    (line,) = lost_episodes(tmp_path)
    assert "world 41" in line and "begun 20" in line and "\n" not in line
    assert lost_episodes(tmp_path) == [] and 42 in seeds_in(tmp_path)
    living.finish()
    assert not list(tmp_path.glob(".playing*"))


def test_a_journal_that_says_anything_is_harmless(tmp_path: Path) -> None:
    (tmp_path / ".playing-5-00000000.json").write_text('{"began": "\\u001b[2J; rm -rf"}')
    (tmp_path / ".playing-6-00000000.json").symlink_to("/etc/hostname")
    assert lost_episodes(tmp_path) == ["the episode in world 5 was lost: its server ended in the middle of it"]


def test_memory_of_a_long_episode_is_on_the_disk(tmp_path: Path) -> None:
    import tracemalloc

    recorder, frame = Recorder(tmp_path, 100), np.zeros((64, 64, 3), np.uint8)
    recorder.begin(7, frame, {"wood": 0})
    tracemalloc.start()
    try:
        for _ in range(500):
            recorder.add(frame[None], np.array([[1]]), np.zeros(1, np.float32), [{"wood": 0}], "you")
        assert tracemalloc.get_traced_memory()[0] < 500 * 600
    finally:
        tracemalloc.stop()
    assert module.FOLDER in os.listdir(tmp_path)
