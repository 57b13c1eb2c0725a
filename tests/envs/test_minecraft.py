"""The adapter on stand-ins for MineStudio and minerl (nobody has run it on a real Minecraft)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastdreamer.envs.minecraft import MinecraftEnv, MinecraftSettings, fit_frame
from fastdreamer.envs.minecraft_backends import MinecraftError
from fastdreamer.errors import UserError
from fastdreamer.recordings.actions import ActionSpace, action_space

from .pretend import Machine
from .read_minestudio import read_minestudio
from .stand_in_minestudio import SOURCE
from .test_minecraft_actions import VPT

TREECHOP = action_space("minerl_treechop")


def act(space: ActionSpace, **labels: int) -> np.ndarray:
    names = [component.name for component in space.components]
    action = np.array(space.noop, np.uint8)
    for name, label in labels.items():
        action[names.index(name)] = label
    return action


def test_treechop_on_minestudio_plays_and_counts_logs(machine: Machine) -> None:
    machine.install_minestudio()
    env = MinecraftEnv(TREECHOP, seed=77, max_steps=7, settings=MinecraftSettings())
    frame = env.reset()
    assert frame.shape == (64, 64, 3) and frame.dtype == np.uint8 and frame[0, 0].tolist() == [77, 0, 0]
    simulator: Any = env._simulator
    assert simulator._sim.inventory == {0: {"type": "iron_axe", "quantity": 1}} and simulator._sim.biome == "forest"
    rewards = []
    for _ in range(7):
        frame, reward, terminated, truncated, info = env.step(act(TREECHOP, attack=1, forward=1, camera_yaw=10))
        rewards.append(reward)
    assert frame[0, 0].tolist() == [77, 7, 2] and frame[0, 1].tolist() == [128, 228, 0]
    assert rewards == [0, 0, 1, 0, 0, 1, 0]
    assert (terminated, truncated, env.is_over, env.steps) == (False, True, True, 7)
    assert info["achievements"] == env.unlocked == ["pickup oak_log"]
    assert info["counters"] == env.counters == {"pickup.oak_log": 2}
    with pytest.raises(AssertionError, match="reset first"):
        env.step(act(TREECHOP))
    assert env.reset()[0, 0].tolist() == [77, 0, 0] and env.unlocked == [], "the same world, without its past"
    assert not env.counters["pickup.oak_log"]
    env.seed = 78
    assert env.reset()[0, 0, 0] == 78
    env.close()
    assert simulator._sim.is_closed


def test_the_end_of_an_episode_is_terminated_alone(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.install_minestudio()
    monkeypatch.setenv("STAND_IN_ENDS", "2")
    env = MinecraftEnv(TREECHOP, 0, 2, MinecraftSettings())
    env.reset()
    assert env.step(act(TREECHOP))[2:4] == (False, False)
    assert env.step(act(TREECHOP))[2:4] == (True, False)  # the simulator calls it a truncation too


def test_vpt_is_rendered_wide_as_it_was_recorded(machine: Machine) -> None:
    machine.install_minestudio()
    with pytest.raises(UserError, match="no action for drop"):
        MinecraftEnv(VPT, 0, 5, MinecraftSettings())
    env = MinecraftEnv(VPT, 0, 5, MinecraftSettings(leave_out=("drop",)))
    assert env.reset().shape == (360, 640, 3)
    env.step(act(VPT, hotbar=9, inventory=1, drop=1))
    simulator: Any = env._simulator
    assert simulator._sim.render_size == (640, 360) and simulator._sim.inventory == {}
    played = {key for key, value in simulator._sim.actions[-1].items() if key != "camera" and value}
    assert played == {"hotbar.9", "inventory"}


def test_obtain_on_minerl_plays_its_own_task(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.install_minerl()
    monkeypatch.setenv("DISPLAY", ":0")
    space = action_space("minerl_obtain")
    env = MinecraftEnv(space, 5, 100, MinecraftSettings())
    assert env.backend == "minerl" and env.reset()[0, 0].tolist() == [5, 5, 5]
    for tick in range(5):
        _, reward, terminated, truncated, info = env.step(act(space, attack=1, craft=3))
        assert (reward, terminated, truncated) == (1.0, False, tick == 4)  # its time limit is a truncation
    assert env.is_over and info["achievements"] == ["log"]
    assert info["counters"] == env.counters and set(env.counters) == {"log", "dirt"} and env.counters["log"] > 0
    simulator: Any = env._simulator
    assert simulator._env.last["craft"] == "planks" and simulator._env.last["place"] == "none"


def test_frames_are_averaged_over_areas() -> None:
    stripes = np.zeros((360, 640, 3), np.uint8)
    stripes[:, ::2] = 255  # a picture that taking single pixels would lose
    small = fit_frame(stripes, 64)
    assert small.shape == (64, 64, 3) and set(small.ravel().tolist()) == {128}
    halves = np.zeros((128, 128, 3), np.uint8)
    halves[64:, :, 1] = 100
    assert fit_frame(halves, 64)[:, 0, 1].tolist() == [0] * 32 + [100] * 32
    flipped = stripes[::-1]
    assert fit_frame(flipped[:64, :64], 64).flags.c_contiguous


@pytest.mark.parametrize(
    ("fails", "message"),
    [
        ("log@init", r"failed while starting: EOFError: \[12:00:01\] ERROR / Minecraft process finished unexpectedly"),
        ("numpy@init", r"this MineStudio needs NumPy 1 .*: pip install 'numpy<2'"),
        ("exit@init", r"MineStudio failed while starting: SystemExit: 0"),
        ("log@reset", r"failed while making a world: EOFError"),
        ("connection@2", r"the connection to Minecraft broke \(Connection timed out!\)"),
        ("log@2", r"failed while playing: EOFError.*logs/mc_"),
    ],
)
def test_a_simulator_that_dies_is_one_line(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, fails: str, message: str
) -> None:
    machine.install_minestudio()
    monkeypatch.setenv("STAND_IN_FAILS", fails)
    with pytest.raises(MinecraftError, match=message) as caught:
        env = MinecraftEnv(TREECHOP, 0, 5, MinecraftSettings())
        env.reset()
        env.step(act(TREECHOP))
        env.step(act(TREECHOP))
    assert "\n" not in str(caught.value)


def test_the_stand_in_is_made_after_the_source() -> None:
    """With FASTDREAMER_MINESTUDIO_SOURCE, a folder with the unpacked wheel (see read_minestudio.py)."""
    folder = os.environ.get("FASTDREAMER_MINESTUDIO_SOURCE")
    if not folder:
        pytest.skip("FASTDREAMER_MINESTUDIO_SOURCE names no unpacked MineStudio wheel")
    assert read_minestudio(Path(folder)) == SOURCE
