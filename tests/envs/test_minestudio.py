"""The adapter on MineStudio's own Python code, where it is installed, with a stand-in for Minecraft (the Java half)."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from fastdreamer.envs.minecraft import MinecraftEnv, MinecraftSettings
from fastdreamer.envs.minecraft_backends import MinecraftError, is_installed
from fastdreamer.errors import UserError
from fastdreamer.recordings.actions import action_space

from .pretend import Machine
from .test_minecraft_actions import VPT

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not is_installed("minestudio"), reason="MineStudio is not installed"),
]
TREECHOP = action_space("minerl_treechop")
EMPTY_TICKS = 20  # MineStudio plays them after a reset, until the screen is no longer black


@pytest.fixture
def engine(machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    machine.write_program("xvfb-run", f'exec {sys.executable} {Path(__file__).with_name("stand_in_engine.py")} "$@"')
    monkeypatch.chdir(tmp_path)  # it writes logs/ into the working directory
    return machine


def test_worlds_actions_frames_and_rewards(engine: Machine) -> None:
    env = MinecraftEnv(TREECHOP, 1_000_003, 5, MinecraftSettings())
    attack = np.array(TREECHOP.noop, np.uint8)
    names = [component.name for component in TREECHOP.components]
    attack[[names.index("attack"), names.index("forward"), names.index("camera_yaw")]] = 1, 1, 10
    for _ in range(2):  # the same world again
        assert env.reset()[0, 0].tolist() == [1_000_003 % 256, EMPTY_TICKS, 0]
        played = [env.step(attack) for _ in range(5)]
        assert played[-1][0].shape == (64, 64, 3)
        assert played[-1][0][0, :2].tolist() == [[1_000_003 % 256, EMPTY_TICKS + 5, 2], [128, 228, 0]]
        assert [reward for _, reward, *_ in played] == [0, 0, 1, 0, 0] and played[-1][2:4] == (False, True)
        assert env.unlocked == ["pickup oak_log"]
    env.close()


def test_a_minecraft_that_dies_is_one_line(engine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STAND_IN_ENGINE_DIES", str(EMPTY_TICKS + 2))
    env = MinecraftEnv(TREECHOP, 0, 9, MinecraftSettings())
    env.reset()
    env.step(np.array(TREECHOP.noop, np.uint8))
    with pytest.raises(MinecraftError, match=r"logs/mc_|connection to Minecraft broke") as caught:
        env.step(np.array(TREECHOP.noop, np.uint8))
    assert "\n" not in str(caught.value)
    env.close()


def test_a_minecraft_that_does_not_start_is_one_line(engine: Machine) -> None:
    engine.write_program("xvfb-run", "echo 'no GLX'; exit 1")
    env = MinecraftEnv(TREECHOP, 0, 9, MinecraftSettings())
    with pytest.raises(MinecraftError, match="while making a world: EOFError: no GLX / Minecraft process finished"):
        env.reset()
    env.close()


def test_vpt_lacks_only_drop(engine: Machine) -> None:
    with pytest.raises(UserError, match=r"no action for drop \(drop\)"):
        MinecraftEnv(VPT, 0, 9, MinecraftSettings())
    MinecraftEnv(VPT, 0, 9, MinecraftSettings(leave_out=("drop",))).close()
