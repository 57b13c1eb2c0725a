"""`inspect` counts what is there and lists what is damaged, with reasons."""

from __future__ import annotations

import json
import os
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest

from fastdreamer.errors import UserError
from fastdreamer.recordings import identity
from fastdreamer.recordings.actions import action_space
from fastdreamer.recordings.inspect import inspect_recordings, render_inspection
from fastdreamer.recordings.read import find_recordings
from fastdreamer.recordings.trajectory import Trajectory
from fastdreamer.recordings.writer import write_recording
from recordings.fixtures import obtain_arrays, treechop_arrays, write_minerl_recording
from recordings.video_fixtures import write_video

STEPS = 20


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three good episodes of three environments and three damaged ones."""
    root = tmp_path_factory.mktemp("recordings")
    write_minerl_recording(root, treechop_arrays(STEPS), extra=3, hidden=5)
    write_minerl_recording(root, obtain_arrays(STEPS), env="MineRLObtainDiamond-v0", number=1)
    frames = np.zeros((STEPS + 1, 64, 64, 3), np.uint8)
    actions = np.array([[5]] * 15 + [[1]] * 5, np.uint8)
    rewards = np.full(STEPS, 0.5, np.float32)
    crafter = Trajectory("x", frames, actions, rewards, np.zeros(STEPS, bool), np.ones(STEPS + 1, bool))
    folder = root / "Crafter-expert" / f"v3_scripted_crafter-0_0-{STEPS}"
    write_recording(folder, crafter, action_space("crafter"), {"achievements": ["collect_wood"]})
    for number in (2, 3, 4):
        write_minerl_recording(root, treechop_arrays(STEPS), number=number)
    folders = {number: next(root.glob(f"*/v3_*-{number}_*")) for number in (2, 3, 4)}
    (folders[2] / "recording.mp4").write_bytes(b"")
    np.savez(folders[3] / "rendered.npz", **{**treechop_arrays(STEPS), "reward": np.zeros(STEPS + 2, np.float32)})
    (folders[4] / "rendered.npz").unlink()
    return root


@pytest.fixture(scope="module")
def found(root: Path) -> dict:
    return inspect_recordings(root)


def test_episodes_frames_and_returns_are_counted(found: dict):
    assert found["episodes"] == 3 and found["frames"] == 3 * (STEPS + 1)
    assert found["seconds"] == pytest.approx(3 * STEPS / 20)
    assert (found["return_min"], found["return_max"]) == (2, 10)
    assert found["return_mean"] == pytest.approx((2 + 2 + 10) / 3)
    assert found["envs"] == {"Crafter-expert": 1, "MineRLObtainDiamond-v0": 1, "MineRLTreechop-v0": 1}
    assert found["frame_sizes"] == {"64x64": 3} and found["terminated"] == 2


def test_each_environment_gets_its_action_space(found: dict):
    spaces = {"crafter": "Crafter-expert", "minerl_obtain": "MineRLObtainDiamond-v0"}
    assert {name: found["spaces"][env] == name for name, env in spaces.items()} == {name: True for name in spaces}
    assert found["spaces"]["MineRLTreechop-v0"] == "minerl_treechop"


def test_the_histogram_counts_every_step_by_label(found: dict):
    assert found["actions"]["action"]["do"] == 15 and found["actions"]["action"]["move_left"] == 5
    assert found["actions"]["equip"]["iron_pickaxe"] == 3
    assert found["actions"]["back"] == {"0": 20, "1": 20}
    for component, counts in found["actions"].items():
        assert sum(counts.values()) in (STEPS, 2 * STEPS), component


def test_damaged_recordings_are_listed_with_reasons(found: dict):
    reasons = {item["name"].split("_")[3]: item["reason"] for item in found["damaged"]}
    assert set(reasons) == {"changeling-2", "changeling-3", "changeling-4"}
    assert "0 bytes" in reasons["changeling-2"]
    assert f"{STEPS + 2} rewards need {STEPS + 2} rows" in reasons["changeling-3"]
    assert "no .npz" in reasons["changeling-4"]


def test_the_result_is_json(found: dict):
    assert json.loads(json.dumps(found)) == found


def test_achievements_are_shares_of_the_episodes_that_record_them(found: dict):
    assert found["achievements"] == {"collect_wood": 1.0}


def test_counters_are_named_with_all_their_gains(tmp_path: Path):
    for number, most in enumerate((3, 4)):
        arrays = obtain_arrays(STEPS) | {"observation$inventory$log": np.arange(STEPS + 1) % (most + 1)}
        write_minerl_recording(tmp_path, arrays | {"observation$inventory$dirt": np.ones(STEPS + 1)}, number=number)
    write_minerl_recording(tmp_path, treechop_arrays(STEPS), number=2)
    found = inspect_recordings(tmp_path, decode=False)
    assert found["counted"] == 2 and found["counters"] == {"log": 15 + 16, "dirt": 0}
    assert "counters of 2 episodes, for tasks; 1 rise, by so much in all\n  log 31\n" in render_inspection(found)


def test_without_decoding_the_figures_are_the_same(root: Path, found: dict):
    quick = inspect_recordings(root, decode=False)
    differing = {key for key in found if found[key] != quick[key]}
    assert differing == {"decoded", "frame_sizes"}


def test_a_wrong_space_damages_only_what_it_does_not_fit(root: Path):
    found = inspect_recordings(root, space="minerl_treechop")
    assert found["episodes"] == 1 and len(found["damaged"]) == 5
    with pytest.raises(UserError, match="no action space 'pong'"):
        inspect_recordings(root, space="pong")


def test_the_text_says_what_counts(found: dict):
    text = render_inspection(found)
    assert "3 episodes, 63 frames (64x64), 0.1 minutes of play" in text
    assert "mean 4.67, from 2.00 to 10.00" in text
    assert "damaged  3" in text and "0 bytes" in text
    assert any(line.split()[:2] == ["do", "75.0%"] for line in text.splitlines())
    assert text.isascii()


def test_nothing_readable_is_still_a_result(tmp_path: Path):
    folder = write_minerl_recording(tmp_path, treechop_arrays(STEPS))
    (folder / "rendered.npz").write_bytes(b"")
    found = inspect_recordings(tmp_path)
    assert found["episodes"] == 0 and found["return_mean"] is None and len(found["damaged"]) == 1
    assert "damaged  1" in render_inspection(found)


def test_missing_and_empty_folders_are_a_users_mistake(tmp_path: Path):
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(UserError):
            inspect_recordings(path)


def test_a_file_under_many_names_is_not_read_to_tell_that_it_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Every name of it was hashed whole: a data set of links was read whole before the first line."""
    clips = tmp_path / "clips"
    clips.mkdir()
    for name, start in (("a", 0), ("b", 100)):
        write_video(clips / f"{name}.mp4", 5, start=start)
        for number in range(3):
            os.link(clips / f"{name}.mp4", clips / f"{name}{number}.mp4")
    (clips / "b2.json").write_text("{}")  # other labels: it is another recording
    monkeypatch.setattr(identity, "sha256_file", hashed := Mock(wraps=identity.sha256_file))
    once, links = identity.without_links(find_recordings(clips), clips)
    assert links == {"a0": "a", "a1": "a", "a2": "a", "b0": "b", "b1": "b"}
    assert [recording.name for recording in once] == ["a", "b", "b2"]
    assert [call.args[0].name for call in hashed.call_args_list] == ["b2.json"]


def test_a_link_beside_its_target_counts_once(tmp_path: Path):
    (tmp_path / "clips").mkdir()
    write_video(tmp_path / "clips" / "a.mp4", 5)
    (tmp_path / "clips" / "b.mp4").symlink_to("a.mp4")
    os.link(tmp_path / "clips" / "a.mp4", tmp_path / "clips" / "c.mp4")
    found = inspect_recordings(tmp_path)
    assert (found["episodes"], found["frames"], found["links"]) == (1, 5, {"b": "a", "c": "a"})
    assert "links    2 to other recordings, which count once" in render_inspection(found)
