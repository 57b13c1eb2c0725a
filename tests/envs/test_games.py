"""Games begin one by one, in worlds that depend on nothing else, and are paid by their task."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fastdreamer.envs import pool as module
from fastdreamer.envs.crafter import CrafterEnv
from fastdreamer.envs.games import Games
from fastdreamer.envs.workers import WorkerPool

pytest.importorskip("crafter")


class Counting:
    """Every step finds one wood and pays 5; counts how often a world was made."""

    made: list[int] = []

    def __init__(self, seed: int, max_steps: int) -> None:
        self.seed, self.steps, self.counters = seed, 0, {"wood": 0}
        self.unlocked: list[str] = []
        self.made.append(seed)

    def reset(self) -> np.ndarray:
        self.steps, self.counters = 0, {"wood": 0}
        return np.full((2, 2, 3), self.seed)

    def step(self, action: np.ndarray) -> tuple[Any, ...]:
        self.steps += 1
        self.counters = {"wood": self.steps}
        return np.full((2, 2, 3), self.seed + self.steps), 5.0, self.steps == 3, False, {}


class Here(WorkerPool):
    """Games whose one worker is this process."""

    def _start(self, factory: Any, arguments: Any) -> None:
        self.handlers = [factory(*given) for given in arguments]

    def _ask(self, requests: Any, timeout_s: float | None = None) -> list[Any]:
        return [handler(request) for handler, request in zip(self.handlers, requests, strict=True)]


class GamesHere(Games, Here):
    """Games that are played in this process."""


def test_games_are_paid_by_their_task_and_a_world_is_made_once_in_a_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CrafterEnv", Counting)
    monkeypatch.setattr(Counting, "made", [])
    games = GamesHere(2, 9, workers=1)
    games.begin([0, 1], [10, 20], ["wood", "reward"])
    assert games.frames[1].max() == 20
    both, actions = np.array([True, True]), np.zeros((2, 1), int)
    frames, rewards, *_ = games.step(actions, both)
    assert rewards.tolist() == [1.0, 5.0] and frames[0].max() == 11
    frames, rewards, _, _, infos = games.step(actions, np.array([False, True]))
    assert rewards[0] == 0.0 and frames[0].max() == 11 and infos[0]["steps"] == 1, "who waits stays as he is"
    assert games.step(actions, both)[2].tolist() == [False, True], "its third step ended it"
    games.begin([1], [20], ["wood"])
    assert games.step(actions, both)[1][1] == 1.0
    games.begin([1], [30], ["wood"])
    assert Counting.made == [10, 20, 30]


def test_games_are_the_single_environments() -> None:
    actions = np.random.default_rng(0).integers(0, 17, (6, 2, 1))
    with Games(2, max_steps=6, workers=1) as games:
        games.begin([1, 0], [6, 5], ["wood", "reward"])
        first = games.frames
        for at in range(6):
            frames, _, terminated, truncated, infos = games.step(actions[at], np.ones(2, bool))
        games.begin([0], [5], ["reward"])
        assert np.array_equal(games.frames[0], first[0]), "the same world again"
        assert np.array_equal(games.frames[1], frames[1]), "the other goes on"
    env = CrafterEnv(6, 6)
    assert np.array_equal(env.reset(), first[1])
    alone = [env.step(action)[0] for action in actions[:, 1]]
    assert np.array_equal(alone[-1], frames[1]) and not np.array_equal(frames[0], frames[1])
    assert (terminated | truncated).all() and infos[1]["steps"] == 6
