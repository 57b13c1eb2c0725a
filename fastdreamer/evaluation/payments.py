"""What tasks pay while policies play: worked out from what the environments count, as relabelling does from a store.

And what a policy saw, did and was paid, kept as episodes like those of a latent store.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy import ndarray
from torch import Tensor

from fastdreamer.config import Config
from fastdreamer.latents.store import Episode
from fastdreamer.recordings.tasks import RECORDED, TaskMeter, counters_of


@dataclass(frozen=True)
class Task:
    """A task that is played for: its name, and the number of its TASK token."""

    name: str
    number: int


def tasks_of(config: Config) -> list[Task]:
    """The tasks that a configuration names; without names the recorded reward, of the task number evaluation.task."""
    names = config.tasks.names or (RECORDED,)
    if len(names) > 1:
        return [Task(name, number) for number, name in enumerate(names)]
    return [Task(names[0], config.evaluation.task)]


class Payments:
    """Meters, one a task and world, from what each world counts at its first frame.

    Attributes:
        uncounted: tasks for which no world has counted anything yet.
    """

    def __init__(self, tasks: Sequence[str], counters: Sequence[Mapping[str, int]]) -> None:
        self.tasks = tasks
        self._meters = [[TaskMeter(task, counted) for counted in counters] for task in tasks]
        self.uncounted = {task for task in tasks if task != RECORDED}
        for counted in counters:
            self._look(counted)

    def pay(
        self, rewards: Float[ndarray, " e"], infos: Sequence[Mapping[str, Any]], active: Bool[ndarray, " e"]
    ) -> Float[ndarray, "k e"]:
        """What a step paid, 0 in worlds that are not active."""
        paid = np.zeros((len(self.tasks), len(rewards)))
        for world in np.flatnonzero(active).tolist():
            counted = infos[world].get("counters", {})
            self._look(counted)
            for row, meters in zip(paid, self._meters, strict=True):
                row[world] = meters[world].pay(float(rewards[world]), counted)
        return paid

    def _look(self, counted: Mapping[str, int]) -> None:
        if self.uncounted:
            self.uncounted -= {task for task in self.uncounted if counters_of(task, list(counted))}


class Trace:
    """Fills up while `closed_loop.play` runs; worlds that have ended take no more room (a step is 512 bytes a world).

    Only for play that executes whole chunks: then the latents are those that encoding the play would give.
    """

    def __init__(self) -> None:
        self._seen: list[tuple[list[int], Tensor]] = []
        self._done: list[list[Tensor]] = []

    def see(self, latents: Float[Tensor, "e n z"], playing: Bool[ndarray, " e"]) -> None:
        """Keep the step that was arrived at, of the worlds that were playing before it."""
        worlds = np.flatnonzero(playing).tolist()
        self._seen.append((worlds, latents[worlds].half().cpu()))

    def do(
        self,
        actions: Int[ndarray, "e k"],
        rewards: Float[ndarray, " e"],
        terminated: Bool[ndarray, " e"],
        active: Bool[ndarray, " e"],
    ) -> None:
        """Keep a frame's actions and what they led to, in the worlds that were active."""
        kinds = ((actions, torch.uint8), (rewards, torch.float32), (terminated, torch.bool), (active, torch.bool))
        self._done.append([torch.tensor(values, dtype=kind) for values, kind in kinds])  # copies

    def episodes(self, name: str, task: int = 0) -> list[Episode]:
        """The traces as episodes, one a world."""
        actions, rewards, terminals, active = (torch.stack(x) for x in zip(*self._done, strict=True))
        lengths = active.sum(0).tolist()
        latents: list[list[Tensor]] = [[] for _ in lengths]
        for world, step in chain.from_iterable(zip(worlds, steps, strict=True) for worlds, steps in self._seen):
            latents[world].append(step)
        return [
            Episode(
                name=f"{name}-{world}",
                split="played",
                latents=torch.stack(latents[world]),
                actions=actions[:length, world],
                rewards=rewards[:length, world],
                terminals=terminals[:length, world],
                valid=torch.ones(length + 1, dtype=torch.bool),
                task=task,
            )
            for world, length in enumerate(lengths)
        ]
