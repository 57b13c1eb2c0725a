"""Worlds kept and put back in worker processes: the same as serial play, with what a task had paid before."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from fastdreamer.envs.branching import BranchPool, Snapshot
from fastdreamer.recordings.tasks import TaskMeter

from .conftest import World

pytest.importorskip("crafter")

NOOP, SAPLING_TASK = 0, "first:achievement.collect_sapling"
COUNT, CHUNK = 3, 2


@pytest.fixture(scope="module")
def pool() -> Iterator[BranchPool]:
    with BranchPool(COUNT, SAPLING_TASK, workers=2) as made:
        yield made


def test_worlds_play_on_from_one_moment_each_with_its_own_chance(pool: BranchPool, world: World) -> None:
    plan = np.random.default_rng(0).integers(17, size=(12, COUNT, CHUNK, 1))
    active = np.ones(COUNT, bool)
    env = world(1, 10_000)
    env.reset()
    pool.restore(Snapshot(env.save(), TaskMeter(SAPLING_TASK, env.counters)), [1, 2, 3])
    for chunk in plan[:6]:
        pool.step(chunk, active)
    saved = pool.save(np.array([False, False, True]))
    assert list(saved) == [2]
    for chance in (7, 8):
        pool.restore(saved[2], [chance, 99, chance])
        env.restore(saved[2].world, chance)
        assert env.steps == 6 * CHUNK
        for chunk in plan[6:]:
            same = np.broadcast_to(chunk[:1], chunk.shape)
            played = pool.step(same, active)
            for i in range(CHUNK):
                frame, reward, *_ = env.step(chunk[0, i])
                assert np.array_equal(played.frames[0, i], frame) and np.array_equal(played.frames[2, i], frame)
                assert played.recorded[0, i] == played.recorded[2, i] == np.float32(reward)
        assert not np.array_equal(played.frames[1], played.frames[0])


def test_a_moment_remembers_what_its_task_has_paid(pool: BranchPool, world: World) -> None:
    env = world(1, 10_000)
    env.reset()
    player = env._env._player
    player.health = 9
    fresh = TaskMeter(SAPLING_TASK, env.counters)
    paid = TaskMeter(SAPLING_TASK, env.counters)
    assert paid.pay(0.0, env.counters | {"achievement.collect_sapling": 1}) == 1.0
    x, y = player.pos
    facing = (x + player.facing[0], y + player.facing[1])
    env._env._world[facing] = "grass"
    packed, still = env.save(), np.ones(COUNT, bool)
    do = np.full((COUNT, 30, 1), env.action_names.index("do"))  # a sapling comes with one try in ten
    sums = []
    for meter in (fresh, paid):
        pool.restore(Snapshot(packed, meter), [3, 4, 5])
        sums.append(pool.step(do, still).rewards.sum())
    assert sums[0] > 0 and sums[1] == 0.0


def test_the_dead_stand_still_and_earn_nothing(pool: BranchPool, world: World) -> None:
    env = world(1, 10_000)
    env.reset()
    env._env._player._hunger = env._env._player._thirst = 0
    env._env._player.inventory.update(health=1, food=0, drink=0, energy=0)
    env._env._player._recover = -15  # one more step without anything costs the last heart
    pool.restore(Snapshot(env.save(), TaskMeter(SAPLING_TASK, env.counters)), [1, 2, 3])
    noop = np.full((COUNT, 4, 1), NOOP)
    played = pool.step(noop, np.array([True, True, False]))
    assert played.ended.tolist() == [True, True, False]
    assert played.recorded[0, 0] < 0 and not played.recorded[0, 1:].any() and not played.recorded[2].any()
    assert np.array_equal(played.frames[0, 0], played.frames[0, 3])
    assert not pool.step(noop, np.ones(COUNT, bool)).recorded[:2].any()
