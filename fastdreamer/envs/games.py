"""Crafter games in worker processes, each begun by itself: another world when one is over, paid by a task."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Int

from fastdreamer.envs.pool import EnvPool, Frames, Stepped
from fastdreamer.recordings.tasks import TaskMeter

ENDLESS = 10**9  # steps; whoever plays without a limit cuts games off himself


class Games(EnvPool):
    """`count` games at once; leaving the context ends their processes.

    A game depends on its world and its actions alone. A world that is begun again in the same place is not made anew.

    Args:
        count: games at once.
        max_steps: actions until a game is truncated.
        workers: processes; 0 means one a core.

    Attributes:
        frames: what every game shows, once all have begun.

    Raises:
        UserError: if crafter is not installed.
    """

    frames: Frames

    def __init__(self, count: int, max_steps: int = ENDLESS, workers: int = 0) -> None:
        super().__init__("crafter", range(count), max_steps, workers)
        self.count = count
        self._meters: dict[int, TaskMeter] = {}

    def begin(self, games: Sequence[int], worlds: Sequence[int], tasks: Sequence[str]) -> None:
        """Begins these games anew, each in its world and for its task; the others go on."""
        seeds = dict(zip(games, worlds, strict=True))
        self.frames = self._begin([seeds.get(game) for game in range(self.count)])
        self._meters |= {game: TaskMeter(task, self.counters[game]) for game, task in zip(games, tasks, strict=True)}

    def step(self, actions: Int[np.ndarray, "e k"], active: Bool[np.ndarray, " e"]) -> Stepped:
        """Plays `actions` where `active`; see `EnvPool.step`."""
        self.frames, rewards, terminated, truncated, infos = super().step(actions, active)
        for game in np.flatnonzero(active).tolist():
            rewards[game] = self._meters[game].pay(float(rewards[game]), infos[game]["counters"])
        return self.frames, rewards, terminated, truncated, infos
