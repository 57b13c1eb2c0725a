from __future__ import annotations

import random

import numpy as np
import pytest

from fastdreamer.envs.crafter import CrafterEnv
from fastdreamer.envs.expert import Expert
from fastdreamer.envs.navigate import BLOCKED, DIGGABLE, FREE, MOVES, TARGET, cell, flatten, nearest

from .conftest import World

pytest.importorskip("crafter")

LEFT, RIGHT, UP, DOWN = (MOVES[direction] for direction in ((-1, 0), (1, 0), (0, -1), (0, 1)))
ORDER = (LEFT, RIGHT, UP, DOWN)


def drawn(*rows: str) -> bytes:
    """A map from a drawing: space free, # blocked, d diggable, X target; everything else is blocked."""
    kinds = {" ": FREE, "#": BLOCKED, "d": DIGGABLE, "X": TARGET}
    grid = np.zeros((64, 64), np.uint8)
    for y, row in enumerate(rows):
        for x, mark in enumerate(row):
            grid[x, y] = kinds[mark]
    return flatten(grid)


def test_nearest_goes_round_walls() -> None:
    way = nearest(drawn("   ", " # ", " #X"), cell(0, 2), ORDER, 20)
    assert way is not None and (way.move, way.length, way.x, way.y) == (UP, 6, 2, 2)


def test_nearest_goes_straight_on_among_equals() -> None:
    kinds = drawn("   ", "   ", "  X")
    for ahead in (RIGHT, DOWN):
        way = nearest(kinds, cell(0, 0), (ahead, *ORDER), 20)
        assert way is not None and way.move == ahead and way.length == 4


def test_nearest_counts_digging_as_two_moves() -> None:
    through = nearest(drawn(" dX"), cell(0, 0), ORDER, 20)
    assert through is not None and through.length == 3
    around = nearest(drawn(" dddX", "     "), cell(0, 0), ORDER, 20)
    assert around is not None and around.move == DOWN


def test_nearest_gives_up() -> None:
    assert nearest(drawn("  X"), cell(0, 0), ORDER, 1) is None
    assert nearest(drawn(" #X"), cell(0, 0), ORDER, 20) is None


def play(env: CrafterEnv, noise: float | None) -> tuple[float, list[str], list[int]]:
    """Return, unlocked achievements and actions of the expert (noise) or of random play (None)."""
    expert, chance = Expert(noise or 0.0, env.seed), random.Random(env.seed)
    env.reset()
    total, actions, ended = 0.0, list[int](), False
    while not ended:
        actions.append(chance.randrange(17) if noise is None else expert.act(env))
        _, reward, terminated, truncated, _ = env.step(actions[-1])
        total, ended = total + reward, terminated or truncated
    return total, env.unlocked, actions


def test_expert_is_far_beyond_random_and_has_the_basic_skills(world: World) -> None:
    envs = [world(seed, 160) for seed in range(4)]
    episodes = [play(env, 0.05) for env in envs]
    assert np.mean([total for total, _, _ in episodes]) > 7 + np.mean([play(env, None)[0] for env in envs])
    often = {
        "collect_wood", "place_table", "make_wood_pickaxe", "make_wood_sword", "collect_sapling", "place_plant",
        "collect_drink", "eat_cow", "wake_up", "collect_stone",
    }  # fmt: skip
    rate = {name: np.mean([name in unlocked for _, unlocked, _ in episodes]) for name in often}
    assert min(rate.values()) >= 0.5, rate


def test_noise_is_random_actions_from_the_seed(world: World) -> None:
    env = world(0, 60)
    assert play(env, 0.5) == play(env, 0.5)
    env.reset()
    assert len({Expert(1.0, seed).act(env) for seed in range(200)}) == 17
    assert len({Expert(0.0, seed).act(env) for seed in range(20)}) == 1
