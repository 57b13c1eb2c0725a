"""Crafter worlds that are kept and put back: one moment played on in many ways, by worker processes.

What a task pays is measured where the world is, so that a moment carries what was paid before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Int, UInt8

from fastdreamer.envs.crafter import CrafterEnv, import_crafter
from fastdreamer.envs.games import ENDLESS
from fastdreamer.envs.workers import WorkerPool
from fastdreamer.recordings.tasks import TaskMeter


@dataclass(frozen=True)
class Snapshot:
    """A moment of an episode: the world, and what the task has paid for."""

    world: bytes
    meter: TaskMeter


@dataclass(frozen=True)
class Played:
    """A chunk of c actions, a row an environment; after an end frames stand still and rewards are 0.

    Attributes:
        frames: the frame after each action.
        rewards: the task's.
        recorded: the environment's own, which recordings hold.
        ended: whether the player died, now or before.
    """

    frames: UInt8[np.ndarray, "e c h w 3"]
    rewards: Float32[np.ndarray, "e c"]
    recorded: Float32[np.ndarray, "e c"]
    ended: Bool[np.ndarray, " e"]


class BranchPool(WorkerPool):
    """`count` Crafter worlds in lockstep, spread over worker processes. Use it as a context manager.

    Args:
        count: worlds.
        task: what is paid (see `recordings.tasks`).
        workers: processes; 0: one a core.

    Raises:
        UserError: if crafter is not installed.
    """

    def __init__(self, count: int, task: str, workers: int = 0) -> None:
        import_crafter()
        self.count = count
        super().__init__(count, workers)
        self._start(_Branches, [(len(share), task) for share in self._shares])

    def start(self, seeds: Sequence[int]) -> UInt8[np.ndarray, "e h w 3"]:
        """Begin the worlds of `seeds`."""
        assert len(seeds) == self.count, (len(seeds), self.count)
        return self._in_order(self._each("start", [([seeds[i] for i in share],) for share in self._shares]))

    def restore(self, snapshot: Snapshot, chances: Sequence[int]) -> None:
        """Restore the same moment in all worlds, each with a chance of its own."""
        assert len(chances) == self.count, (len(chances), self.count)
        self._each("restore", [(snapshot, [chances[i] for i in share]) for share in self._shares])

    def step(self, actions: Int[np.ndarray, "e c k"], active: Bool[np.ndarray, " e"]) -> Played:
        """Play a chunk in the worlds that are `active`; the others stand still."""
        parts = self._each("step", [(actions[share], active[share]) for share in self._shares])
        return Played(**{f.name: self._in_order([getattr(part, f.name) for part in parts]) for f in fields(Played)})

    def save(self, wanted: Bool[np.ndarray, " e"]) -> dict[int, Snapshot]:
        """Save the worlds that are `wanted`, by their place."""
        parts = self._each("save", [(np.flatnonzero(wanted[share]).tolist(),) for share in self._shares])
        return {
            share[index]: snapshot
            for share, part in zip(self._shares, parts, strict=True)
            for index, snapshot in part.items()
        }

    def _each(self, what: str, arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
        return self._ask([(what, given) for given in arguments])

    def _in_order(self, parts: Sequence[np.ndarray]) -> np.ndarray:
        return np.concatenate(parts)[self._order]


class _Branches:
    """A worker's share of the worlds."""

    def __init__(self, count: int, task: str) -> None:
        self.task = task
        self.envs = [CrafterEnv(0, ENDLESS) for _ in range(count)]
        self.meters = [TaskMeter(task, {})] * count
        self.frames = np.zeros((count, 64, 64, 3), np.uint8)

    def __call__(self, request: tuple[str, tuple[Any, ...]]) -> Any:
        what, arguments = request
        return getattr(self, what)(*arguments)

    def start(self, seeds: Sequence[int]) -> np.ndarray:
        """Begin worlds of these seeds."""
        self.envs = [CrafterEnv(seed, ENDLESS) for seed in seeds]
        self.frames = np.stack([env.reset() for env in self.envs])
        self.meters = [TaskMeter(self.task, env.counters) for env in self.envs]
        return self.frames

    def restore(self, snapshot: Snapshot, chances: Sequence[int]) -> None:
        """Restore one moment in all of them."""
        for env, chance in zip(self.envs, chances, strict=True):
            env.restore(snapshot.world, chance)
        self.meters = [deepcopy(snapshot.meter) for _ in self.envs]

    def step(self, actions: Int[np.ndarray, "e c k"], active: Bool[np.ndarray, " e"]) -> Played:
        """Play a chunk in the active ones."""
        count, chunk = actions.shape[:2]
        frames = np.repeat(self.frames[:, None], chunk, 1)
        rewards, recorded = np.zeros((count, chunk), np.float32), np.zeros((count, chunk), np.float32)
        for index in np.flatnonzero(active).tolist():
            env, meter = self.envs[index], self.meters[index]
            for i in range(chunk):
                if not env.is_over:
                    self.frames[index], recorded[index, i], *_ = env.step(actions[index, i])
                    rewards[index, i] = meter.pay(float(recorded[index, i]), env.counters)
                frames[index, i] = self.frames[index]
        return Played(frames, rewards, recorded, np.array([env.is_over for env in self.envs]))

    def save(self, wanted: Sequence[int]) -> dict[int, Snapshot]:
        """Save some of them, as they stand."""
        return {index: Snapshot(self.envs[index].save(), deepcopy(self.meters[index])) for index in wanted}
