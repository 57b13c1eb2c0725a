"""Tasks: named rewards worked out from what a game counts, so that one set of play trains many goals.

A recording holds counters beside its rewards: at every frame how many of each item the player carries (`wood`, `log`)
and how often each achievement or statistic was reached (`achievement.collect_wood`). A task is a name:

- `reward`: the recorded reward as it is;
- `unlocks`: one point whenever an achievement is reached for the first time;
- `first:COUNTER`: one point the first time that counter rises;
- `COUNTER`: one point each time that counter rises by one (what MineRL's Treechop pays for logs).

Source: Dreamer 4 (arXiv:2509.24527), section 4.1: one world model and one agent for many tasks in Minecraft.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float32, Integer

RECORDED = "reward"
UNLOCKS = "unlocks"
FIRST = "first:"
ACHIEVEMENT = "achievement."

Counters = Mapping[str, Integer[np.ndarray, " t"]]
"""What the game counts, at each of an episode's frames."""


def counters_of(task: str, known: Sequence[str]) -> list[str]:
    """The counters among `known` that a task is worked out from; none for the recorded reward."""
    if task == RECORDED:
        return []
    if task == UNLOCKS:
        return [name for name in known if name.startswith(ACHIEVEMENT)]
    return [name for name in known if name == task.removeprefix(FIRST)]


def task_rewards(task: str, recorded: Float32[np.ndarray, " s"], counters: Counters) -> Float32[np.ndarray, " s"]:
    """A task's reward for every transition of an episode; row i comes with the step from frame i to frame i + 1.

    A counter that an episode does not have was never above 0 there.

    Args:
        task: its name.
        recorded: the recorded rewards.
        counters: counters at each frame, one more than there are rewards.
    """
    if task == RECORDED:
        return recorded
    rewards = np.zeros(len(recorded), np.float32)
    for name in counters_of(task, list(counters)):
        gains = np.maximum(np.diff(counters[name].astype(np.int64)), 0)
        if task == UNLOCKS or task.startswith(FIRST):
            gains = (gains > 0) & (np.cumsum(gains > 0) == 1)
        rewards += gains
    return rewards


class TaskMeter:
    """Pays a task's reward while an episode is played, transition by transition; equal to `task_rewards`.

    Args:
        task: its name.
        counters: what the game counts at the first frame.
    """

    def __init__(self, task: str, counters: Mapping[str, int]) -> None:
        self.task, self.before = task, dict(counters)
        self._reached: set[str] = set()

    def pay(self, recorded: float, counters: Mapping[str, int]) -> float:
        """The reward of one transition, from the environment's own and the counters at the frame it led to."""
        if self.task == RECORDED:
            return recorded
        paid = 0.0
        for name in counters_of(self.task, list(counters)):
            gain = max(0, counters[name] - self.before.get(name, 0))
            if self.task == UNLOCKS or self.task.startswith(FIRST):
                gain = int(gain > 0 and name not in self._reached)
                if gain:
                    self._reached.add(name)
            paid += gain
        self.before = dict(counters)
        return paid
