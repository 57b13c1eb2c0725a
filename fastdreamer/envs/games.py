"""Crafter games in worker processes, each begun by itself: another world when one is over, paid by a task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from fastdreamer.envs.crafter import CrafterEnv, import_crafter
from fastdreamer.envs.pool import Frames, Stepped
from fastdreamer.envs.workers import WorkerPool
from fastdreamer.recordings.tasks import TaskMeter

ENDLESS = 10**9  # steps; whoever plays without a limit cuts games off himself


class Games(WorkerPool):
    """`count` games at once; leaving the context ends their processes.

    A game depends on its world and its actions alone. A world that is begun again in the same place is not made anew.

    Args:
        count: games at once.
        max_steps: actions until a game is truncated.
        workers: processes; 0 means one a core.

    Raises:
        UserError: if crafter is not installed.
    """

    def __init__(self, count: int, max_steps: int = ENDLESS, workers: int = 0) -> None:
        import_crafter()
        self.count = count
        super().__init__(count, workers)
        self._start(_Share, [(max_steps,) for _ in self._shares])
        self._frames: dict[int, np.ndarray] = {}

    def begin(self, games: Sequence[int], worlds: Sequence[int], tasks: Sequence[str]) -> None:
        """Begins these games anew, each in its world and for its task; the others go on."""
        orders = {game: (world, task) for game, world, task in zip(games, worlds, tasks, strict=True)}
        self._played([[(game, *orders[game]) for game in share if game in orders] for share in self._shares])

    def step(self, actions: Int[np.ndarray, "e k"], active: Bool[np.ndarray, " e"]) -> Stepped:
        """Plays `actions` where `active`; see `EnvPool.step`."""
        rows = self._played([(share, np.asarray(actions)[share], active[share]) for share in self._shares])
        _, rewards, terminated, truncated, infos = zip(*(rows[game] for game in range(self.count)), strict=True)
        return self.frames, np.array(rewards, np.float32), np.array(terminated), np.array(truncated), list(infos)

    @property
    def frames(self) -> Frames:
        """What every game shows; all must have begun."""
        return np.stack([self._frames[game] for game in range(self.count)])

    def _played(self, requests: Sequence[Any]) -> dict[int, tuple[Any, ...]]:
        """Each worker's answers, by game; its frame comes first."""
        rows = {game: row for answer in self._ask(requests) for game, row in answer.items()}
        self._frames |= {game: row[0] for game, row in rows.items()}
        return rows


class _Share:
    """A worker's share of the games. A list of (game, world, task) begins them, anything else steps them."""

    def __init__(self, max_steps: int) -> None:
        self.max_steps = max_steps
        self.envs: dict[int, CrafterEnv] = {}
        self.meters: dict[int, TaskMeter] = {}
        self.shown: dict[int, np.ndarray] = {}

    def __call__(self, request: Any) -> dict[int, tuple[Any, ...]]:
        if isinstance(request, list):
            for game, world, task in request:
                if game not in self.envs or self.envs[game].seed != world:
                    self.envs[game] = CrafterEnv(world, self.max_steps)
                self.shown[game] = self.envs[game].reset()
                self.meters[game] = TaskMeter(task, self.envs[game].counters)
            return {game: (self.shown[game],) for game, _, _ in request}
        return {
            game: self._stepped(game, action, bool(is_active)) for game, action, is_active in zip(*request, strict=True)
        }

    def _stepped(self, game: int, action: np.ndarray, is_active: bool) -> tuple[Any, ...]:
        env, reward, terminated, truncated = self.envs[game], 0.0, False, False
        if is_active:
            self.shown[game], reward, terminated, truncated, _ = env.step(action)
            reward = self.meters[game].pay(reward, env.counters)
        info = {"achievements": env.unlocked, "steps": env.steps}
        return self.shown[game], reward, terminated, truncated, info
