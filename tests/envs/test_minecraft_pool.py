"""EnvPool with a stand-in for MineStudio in real worker processes."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pytest

from fastdreamer.envs import pool as module
from fastdreamer.envs.pool import EnvPool
from fastdreamer.errors import UserError
from fastdreamer.recordings.actions import action_space

from .pretend import Machine

SPACE = action_space("minerl_treechop")


def noops(count: int) -> np.ndarray:
    return np.tile(np.array(SPACE.noop, np.uint8), (count, 1))


def test_two_workers_play_waves_of_worlds(machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.install_minestudio()
    closed = tmp_path / "closed"
    closed.mkdir()
    monkeypatch.setenv("STAND_IN_CLOSED", str(closed))
    with EnvPool("minerl_treechop", [10, 20], 3) as pool:
        processes = {worker.process.pid for worker in pool._workers}
        assert len(processes) == 2
        assert pool.reset()[:, 0, 0].tolist() == [[10, 0, 0], [20, 0, 0]]
        actions = noops(2)
        actions[1, [c.name for c in SPACE.components].index("jump")] = 1
        for _ in range(2):
            frames, _, terminated, truncated, infos = pool.step(actions, np.array([True, True]))
        assert frames[:, 0, 0].tolist() == [[10, 2, 0], [20, 2, 1]]
        assert not terminated.any() and not truncated.any() and infos[1]["steps"] == 2
        frames, _, _, truncated, _ = pool.step(actions, np.array([False, True]))
        assert frames[:, 0, 0, 1].tolist() == [2, 3] and truncated.tolist() == [False, True]
        pool.choose([30])
        assert pool.size == 1 and pool.reset()[:, 0, 0].tolist() == [[30, 0, 0]]
        assert pool.step(noops(1), np.array([True]))[0][:, 0, 0].tolist() == [[30, 1, 0]]
        pool.choose([40, 50])
        assert pool.reset()[:, 0, 0, 0].tolist() == [40, 50]
    assert {int(path.name) for path in closed.iterdir()} == processes, "every Minecraft is told to end"


@pytest.mark.parametrize(
    ("fails", "message"),
    [
        ("die@2", r"worker process \d+ died, exit code 9"),
        ("log@reset", "MineStudio failed while making a world"),
        ("connection@1", "the connection to Minecraft broke"),
        ("hang@1", r"did not answer for 1 s"),
    ],
)
def test_a_dead_or_silent_minecraft_is_one_line(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, fails: str, message: str
) -> None:
    machine.install_minestudio()
    monkeypatch.setenv("STAND_IN_FAILS", fails)
    if fails == "hang@1":  # the others answer, and are given the time that they need
        monkeypatch.setattr(module, "MINECRAFT_STEP_S", 1.0)
        monkeypatch.setattr(module, "CLOSE_S", 1.0)
    began = time.monotonic()
    with pytest.raises(UserError, match=message) as caught, EnvPool("minerl_treechop", [1], 5) as pool:
        processes = [worker.process for worker in pool._workers]
        pool.reset()
        began = time.monotonic()
        for _ in range(2):
            pool.step(noops(1), np.ones(1, bool))
    assert "\n" not in str(caught.value) and time.monotonic() - began < 60
    assert not any(process.is_alive() for process in processes)


def test_what_is_missing_is_said_before_any_process_starts(machine: Machine) -> None:
    with pytest.raises(UserError, match="MineStudio is not installed"):
        EnvPool("minerl_treechop", [0], 10)
    assert os.environ["PATH"] == str(machine.bin)
