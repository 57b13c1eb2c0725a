"""The two simulators behind one small interface: MineStudio 1.1.6 and minerl 0.4.4, by their sources' word.

Nobody has run either with a real Minecraft yet: what is here was read in their sources, and tests use stand-ins. With
MineStudio's own Python code it has run, on a stand-in for the Java half (tests/envs/test_minestudio.py).

| | MineStudio 1.1.6 | minerl 0.4.4 |
|---|---|---|
| Minecraft | 1.16.5 | 1.11.2 |
| interface | Gymnasium: reset -> 2, step -> 5 values | old gym: reset -> 1, step -> 4 values |
| frame | `obs["image"]`, asked for by `render_size` and `obs_size` | `obs["pov"]`, 64x64 |
| world | forgets its seed at every reset: seeded before each | the same |
| reward | none: Treechop's is counted from the logs picked up | the task's own |
| a broken connection | random frame, done, and `info["error"]` | the same |
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import numpy as np
from jaxtyping import UInt8

from fastdreamer.envs.minecraft_actions import read_keys
from fastdreamer.envs.minecraft_backends import NAMES, MinecraftError
from fastdreamer.system.advice import pip

VPT_SIZE = (640, 360)  # width and height of VPT's recordings, MineStudio's own default
MINERL_TASKS = {
    "minerl_treechop": "MineRLTreechop-v0",
    "minerl_navigate": "MineRLNavigate-v0",
    "minerl_obtain": "MineRLObtainDiamond-v0",
    "minerl_basalt": "MineRLBasaltFindCave-v0",
}


@dataclass(frozen=True)
class Moment:
    """What a simulator shows after a reset or a step."""

    frame: UInt8[np.ndarray, "h w 3"]
    items: Mapping[str, float]  # counts that grow as things are obtained
    reward: float = 0.0
    is_over: bool = False
    is_cut: bool = False  # whether the simulator's own time limit ended it
    counters: Mapping[str, int] = field(default_factory=dict)  # carried, and statistics (see `recordings.tasks`)


class MineStudio:
    """MineStudio's `MinecraftSim` with its plain actions (`action_type="env"`).

    For MineRL's recordings it renders squares of their size, as MineRL did, so that nothing is resampled; the agent of
    Treechop starts in a forest with an iron axe, as in the recordings. VPT's are rendered at 640x360.
    """

    def __init__(self, env: str, size: int) -> None:
        is_minerl = env.startswith("minerl_")
        self._is_treechop = env == "minerl_treechop"
        shape = (size, size) if is_minerl else VPT_SIZE
        module = _import("minestudio", "minestudio.simulator")
        try:
            self._sim: Any = module.MinecraftSim(
                action_type="env",
                obs_size=shape,
                render_size=shape,
                inventory={0: {"type": "iron_axe", "quantity": 1}} if self._is_treechop else {},
                preferred_spawn_biome="forest" if self._is_treechop else None,
            )
        except AttributeError as error:  # 1.1.6 uses np.unicode_
            if "NumPy 2" not in str(error):
                raise
            raise MinecraftError(f"this MineStudio needs NumPy 1 ({error}): {pip('numpy<2')}") from error
        spaces = self._sim.action_space.spaces
        self.keys = read_keys(spaces)
        # Its own no-op has the commands `chat`, `voxels` and `mobs` besides, which are no play.
        self.noop = {key: np.zeros(2, np.float32) if key == "camera" else 0 for key in self.keys}
        self._logs = 0.0

    def reset(self, seed: int) -> Moment:
        """Generate the world of `seed` anew (tens of seconds)."""
        self._sim.env.seed(seed)
        observation, info = self._sim.reset()
        self._logs = _logs(info)
        return Moment(observation["image"], _items(info), counters=_counters(info))

    def step(self, action: Mapping[str, Any]) -> Moment:
        """Play one tick, 1/20 s of the game."""
        observation, reward, is_over, _, info = self._sim.step(dict(action))  # it calls every end a truncation too
        _refuse_error(info)
        if self._is_treechop:
            before, self._logs = self._logs, _logs(info)
            reward = self._logs - before
        return Moment(observation["image"], _items(info), float(reward), bool(is_over), counters=_counters(info))

    def close(self) -> None:
        """End Minecraft."""
        self._sim.close()


class MineRL:
    """A task of the `minerl` package; its actions are those of the recordings."""

    def __init__(self, env: str, task: str) -> None:
        name = task or MINERL_TASKS.get(env)
        if name is None:
            raise MinecraftError(f"no task of minerl is known for data.env={env}: name one as evaluation.minerl_task")
        _import("minerl", "minerl")  # registers its tasks with gym
        self._env: Any = _import("minerl", "gym").make(name)
        self.keys = read_keys(self._env.action_space.spaces)
        self.noop = dict(self._env.action_space.no_op())

    def reset(self, seed: int) -> Moment:
        """Generate the world of `seed` anew (tens of seconds)."""
        self._env.seed(seed)
        observation = self._env.reset()
        return self._moment(observation)

    def step(self, action: Mapping[str, Any]) -> Moment:
        """Play one tick, 1/20 s of the game."""
        observation, reward, is_over, info = self._env.step(dict(action))
        _refuse_error(info)
        is_cut = bool(is_over and info.get("TimeLimit.truncated"))
        return self._moment(observation, float(reward), bool(is_over) and not is_cut, is_cut)

    def _moment(self, seen: Mapping[str, Any], reward: float = 0.0, over: bool = False, cut: bool = False) -> Moment:
        items = dict(seen.get("inventory", {}))
        return Moment(seen["pov"], items, reward, over, cut, {name: int(count) for name, count in items.items()})

    def close(self) -> None:
        """End Minecraft."""
        self._env.close()


def _import(package: str, module: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MinecraftError(
            f"{NAMES[package]} is installed but cannot be imported ({error}): install what it requires"
        ) from error


def _refuse_error(info: Mapping[str, Any]) -> None:
    if "error" in info:  # the frame that came with it is noise
        raise MinecraftError(f"the connection to Minecraft broke ({info['error']})")


def _items(info: Mapping[str, Any]) -> dict[str, float]:
    return {
        f"{event} {item}": float(count)
        for event in ("pickup", "craft_item")
        for item, count in info.get(event, {}).items()
    }


def _logs(info: Mapping[str, Any]) -> float:
    return sum(float(count) for item, count in info.get("pickup", {}).items() if str(item).endswith("_log"))


def _counters(info: Mapping[str, Any]) -> dict[str, int]:
    """Counters under the names of VPT's recordings: what the slots hold, and statistics as `mine_block.oak_log`."""
    counted: dict[str, int] = {}
    held = info.get("inventory", ())
    for slot in held.values() if isinstance(held, Mapping) else held:
        counted[str(slot["type"])] = counted.get(str(slot["type"]), 0) + int(slot["quantity"])
    for event in ("mine_block", "pickup", "craft_item", "use_item", "kill_entity"):
        counted |= {f"{event}.{item}": int(count) for item, count in info.get(event, {}).items()}
    return counted
