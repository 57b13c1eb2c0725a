"""What tasks pay while policies play: worked out from what the environments count, as relabelling does from a store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray

from fastdreamer.config import Config
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
    """Meters, one a task and world.

    Args:
        tasks: their names.
        counters: what each world counts at its first frame.

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
