from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from bench.chaos.children import group
from fastdreamer.config import Config, DataConfig, RecordConfig
from fastdreamer.envs.record import play, record
from fastdreamer.errors import UserError
from fastdreamer.recordings.actions import action_space
from fastdreamer.recordings.read import find_recordings, read_recording

from .conftest import World

pytest.importorskip("crafter")

SETTINGS = RecordConfig(policy="expert", episodes=2, max_steps=25, noise=0.1, seed=0)
LONG = """
import sys
from pathlib import Path
from fastdreamer.config import Config, RecordConfig
from fastdreamer.envs.record import record
if __name__ == "__main__":
    record(Config(record=RecordConfig(episodes=500, max_steps=400)), Path(sys.argv[1]))
"""


def test_record_writes_what_was_played_and_resumes(tmp_path: Path, world: World) -> None:
    result = record(Config(record=SETTINGS), tmp_path)
    assert (result["episodes"], result["frames"], result["out"]) == (2, 52, str(tmp_path))
    space = action_space("crafter")
    recordings = {recording.name: recording for recording in find_recordings(tmp_path)}
    assert set(recordings) == {"v3_expert_crafter-0_0-25", "v3_expert_crafter-1_0-25"}
    played = play(world(0, 25), SETTINGS)
    read = read_recording(recordings["v3_expert_crafter-0_0-25"], space)
    assert np.array_equal(read.frames, played.frames)  # lossless
    assert np.array_equal(read.actions, played.actions)
    assert np.array_equal(read.rewards, played.rewards)
    assert read.valid.all() and not read.terminals.any()
    folder = tmp_path / "Crafter-expert" / "v3_expert_crafter-0_0-25"
    metadata = json.loads((folder / "metadata.json").read_text())
    wanted = {"recorder": "fastdreamer", "seed": 0, "policy": "expert", "terminated": False, "noise": 0.1}
    assert wanted.items() <= metadata.items() and metadata["achievements"] == played.metadata["achievements"] != []

    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.mp4")}
    for path in (tmp_path / "Crafter-expert" / "v3_expert_crafter-1_0-25").iterdir():
        path.unlink()
    (tmp_path / "Crafter-expert" / "v3_expert_crafter-1_0-25").rmdir()
    again = record(Config(record=SETTINGS), tmp_path)
    assert {**again, "seconds": 0} == {**result, "seconds": 0}
    assert (folder / "recording.mp4").stat().st_mtime_ns == before[folder / "recording.mp4"]
    assert len(list(tmp_path.rglob("*.mp4"))) == 2


def test_episodes_of_other_settings_are_not_mixed(tmp_path: Path) -> None:
    folder = tmp_path / "Crafter-random" / "v3_random_crafter-0_0-9"
    folder.mkdir(parents=True)
    metadata = {"total_reward": 0.0, "duration_steps": 9, "achievements": [], "seed": 0, "policy": "random"}
    (folder / "metadata.json").write_text(json.dumps({**metadata, "noise": 1.0, "max_steps": 9}))
    config = Config(record=RecordConfig(policy="random", episodes=1, max_steps=10))
    with pytest.raises(UserError, match="max_steps 9, not 10"):
        record(config, tmp_path)
    (folder / "metadata.json").write_text("{")
    with pytest.raises(UserError, match="damaged"):
        record(config, tmp_path)


def test_a_place_that_cannot_be_written_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="cannot write recordings"):
        record(Config(record=SETTINGS), tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"
    with pytest.raises(UserError, match="only crafter"):
        record(Config(data=DataConfig(env="minerl_treechop")), tmp_path)


def test_two_that_record_to_one_folder_both_end_well(tmp_path: Path) -> None:
    script = tmp_path / "both.py"
    one_worker = "import os\nos.sched_setaffinity(0, {min(os.sched_getaffinity(0))})"
    script.write_text(one_worker + LONG.replace("episodes=500, max_steps=400", "episodes=3, max_steps=30"))
    command = [sys.executable, str(script), str(tmp_path / "out")]
    both = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    for process in both:
        assert "Traceback" not in process.communicate(timeout=120)[1] and process.returncode == 0
    names = sorted(path.name for path in (tmp_path / "out" / "Crafter-expert").iterdir())
    assert len(names) == 3 and all(name.startswith("v3_") for name in names)


def test_an_episode_that_another_wrote_meanwhile_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fastdreamer.envs import record as module
    from fastdreamer.recordings import writer

    real, root = writer.write_recording, tmp_path / "Crafter-expert"
    settings = RecordConfig(episodes=1, max_steps=5)

    def slow(folder: Path, *given: object) -> None:
        real(folder, *given)  # type: ignore[arg-type]
        (folder / "mark").touch()  # by the other one, which was faster
        real(folder, *given)  # type: ignore[arg-type]

    monkeypatch.setattr(writer, "write_recording", slow)
    root.mkdir()
    recorder = module._Recorder(root, settings)
    seed, metadata = recorder(0)
    assert seed == 0 and metadata["duration_steps"] == 5
    assert recorder(0) == (0, metadata) and len(list(root.glob("*/mark"))) == 1
    with pytest.raises(UserError, match="was recorded with max_steps 5, not 6: choose another --out$"):
        module._Recorder(root, RecordConfig(episodes=1, max_steps=6))(0)


def test_a_folder_that_cannot_be_listed_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))

    monkeypatch.setattr(Path, "iterdir", fail)
    with pytest.raises(UserError, match=r"Crafter-expert cannot be read \(Input/output error\): choose another --out"):
        record(Config(record=SETTINGS), tmp_path)


def holds_soon(condition: Callable[[], bool]) -> bool:
    """Whether it holds within a minute."""
    deadline = time.monotonic() + 60
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return condition()


SLOW = """
import os, pathlib, time
from fastdreamer.envs.workers import Worker
def work(): return print
if os.environ.get("SLOW"):
    pathlib.Path(__file__).with_name("begun").touch()
    time.sleep(600)
os.environ["SLOW"] = "in what this one starts"
"""


def test_a_worker_that_is_still_starting_ends_with_its_parent(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(SLOW)
    code = "import slow, time; slow.Worker(slow.work); print('ready', flush=True); time.sleep(600)"
    environment = os.environ | {"PYTHONPATH": f"{os.environ['PYTHONPATH']}:{tmp_path}"}
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True) as run:
        assert run.stdout is not None and run.stdout.readline() == "ready\n"
        assert holds_soon((tmp_path / "begun").exists) and group(run.pid) != [run.pid]
        run.kill()
    holds_soon(lambda: not group(run.pid))
    left = group(run.pid)
    for process in left:
        os.kill(process, signal.SIGKILL)
    assert not left


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_workers_end_with_their_parent(tmp_path: Path, kind: signal.Signals) -> None:
    script = tmp_path / "long.py"
    script.write_text(LONG)
    run = subprocess.Popen([sys.executable, str(script), str(tmp_path / "out")], start_new_session=True)
    try:
        assert holds_soon(lambda: any((tmp_path / "out").glob("*/v3_*"))), "no worker came to an episode's end"
        run.send_signal(kind)
        run.wait(60)
        assert holds_soon(lambda: not group(run.pid))
    finally:
        if group(run.pid):
            os.killpg(run.pid, signal.SIGKILL)
