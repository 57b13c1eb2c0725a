from __future__ import annotations

import builtins
import hashlib
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from fastdreamer.envs.crafter import CrafterEnv
from fastdreamer.errors import UserError

from .conftest import World

pytest.importorskip("crafter")

NOOP, SLEEP = 0, 6
# Prints a hash of everything an agent can see. `ballast` moves objects to other addresses, which is the order of a set.
TRACE = """
import hashlib, random, sys
ballast = [object() for _ in range(int(sys.argv[1]))]
from fastdreamer.envs.crafter import CrafterEnv
env, chance, digest = CrafterEnv(3, 10_000), random.Random(0), hashlib.sha256()
digest.update(env.reset().tobytes())
env._env._player.__class__.health = property(lambda self: 9, lambda self, value: None)  # live for ever
for _ in range(1500):
    frame, reward, *_, info = env.step(chance.randrange(17))
    digest.update(frame.tobytes() + info["semantic"].tobytes() + repr(reward).encode())
print(digest.hexdigest())
"""


def rollout(env: CrafterEnv, steps: int, seed: int = 0) -> list[tuple[str, float]]:
    chance = np.random.default_rng(seed)
    trace = [(hashlib.sha256(env.reset().tobytes()).hexdigest(), 0.0)]
    for _ in range(steps):
        frame, reward, terminated, truncated, _ = env.step(int(chance.integers(17)))
        trace.append((hashlib.sha256(frame.tobytes()).hexdigest(), reward))
        if terminated or truncated:
            break
    return trace


def test_two_processes_play_the_same_episode() -> None:
    runs = [
        subprocess.Popen([sys.executable, "-c", TRACE, ballast], stdout=subprocess.PIPE, text=True)
        for ballast in ("1", "54321")
    ]
    first, second = (run.communicate(timeout=300)[0] for run in runs)
    assert len(first) == 65 and first == second


def test_chunks_iterate_in_the_order_of_addition(world: World) -> None:
    env = world(1, 10)
    env.reset()
    order = {id(thing): index for index, thing in enumerate(env._env._world._objects)}
    for things in env._env._world.chunks.values():
        assert not isinstance(things, set)
        assert [order[id(thing)] for thing in things] == sorted(order[id(thing)] for thing in things)


def test_reset_restarts_the_same_world_and_another_seed_is_another_world(world: World) -> None:
    env = world(1, 60)
    first = rollout(env, 60)
    assert rollout(env, 60) == first
    assert rollout(CrafterEnv(1, 60), 60) == first
    assert rollout(world(0, 60), 60)[0] != first[0]


def test_pixels_are_crafters_own(world: World) -> None:
    """Day, night noise, sleep, map edge: the cached tiles draw what crafter's own views draw."""
    env = world(1, 10_000)
    env.reset()
    inner = env._env
    slow_tiles, slow_items = inner._local_view._view, inner._item_view._view
    unit = inner._size // inner._view
    chance = np.random.default_rng(0)

    def check() -> None:
        for view in (slow_tiles, inner._local_view):
            state = inner._world.random.get_state()  # night noise draws from it
            pictures.append(view(inner._player, unit))
            inner._world.random.set_state(state)
        assert np.array_equal(pictures.pop(), pictures.pop())
        items = inner._player.inventory
        assert np.array_equal(slow_items(items, unit), inner._item_view(items, unit))

    pictures: list[Any] = []
    for step in range(320):
        inner._player.health = 9
        env.step(SLEEP if 60 < step < 80 else int(chance.integers(17)))
        check()
    assert inner._player.inventory["energy"] < 9
    for corner in ((0, 0), (63, 63), (0, 40)):  # grey outside the map
        inner._world.move(inner._player, corner)
        check()


def test_step_cap_truncates_and_death_terminates(world: World) -> None:
    env = world(0, 3)
    env.reset()
    ends = [env.step(NOOP)[2:4] for _ in range(3)]
    assert ends == [(False, False), (False, False), (False, True)]
    with pytest.raises(AssertionError, match="reset first"):
        env.step(NOOP)
    env.reset()
    env.step(NOOP)
    env.step(NOOP)
    env._env._player.health = 0  # dies on the very last step allowed: the end is real
    assert env.step(NOOP)[2:4] == (True, False)


def test_info_shows_what_the_expert_needs(world: World) -> None:
    env = world(0, 10)
    frame = env.reset()
    assert frame.shape == (64, 64, 3) and frame.dtype == np.uint8
    assert env.semantic[env.player_pos] == 13  # the player
    info = env.step(NOOP)[4]
    assert set(info) >= {"achievements", "semantic", "player_pos", "inventory"}
    assert info["semantic"].shape == (64, 64) and info["inventory"]["health"] == 9
    assert len(info["achievements"]) == 22 and env.unlocked == []


@pytest.mark.parametrize("night", [False, True])
def test_a_restored_world_plays_on_as_it_did(world: World, night: bool) -> None:
    env, other, chance = world(1, 10_000), world(0, 10_000), np.random.default_rng(0)
    env.reset()
    plan = [int(action) for action in chance.integers(17, size=90)]
    for action in plan[:30]:
        env.step(action)
    env._env._player.achievements["eat_plant"] = 1  # before the moment: it is not paid after it
    env._env._unlocked.add("eat_plant")
    if night:  # its noise draws from the world's chance
        env._env._step = 250
    saved, first = env.save(), played(env, plan[30:])
    for again in (env, other):  # another seed's world, in the middle of a game of its own
        again.reset()
        again.step(NOOP)
        again.restore(saved)
        assert again.steps == 30 and played(again, plan[30:]) == first
    assert len({frame for frame, *_ in first}) > 30 and any(reward for _, reward, *_ in first)
    env.reset()
    assert played(env, plan[:30]) != first[:30] and env.steps == 30, "the world itself starts as ever"


def played(env: CrafterEnv, actions: list[int]) -> list[tuple[str, float, tuple[int, int], list[str]]]:
    trace = []
    for action in actions:
        frame, reward, *_ = env.step(action)
        trace.append((hashlib.sha256(frame.tobytes()).hexdigest(), reward, env.player_pos, env.unlocked))
    return trace


def test_every_chance_is_another_course_and_the_same_one_the_same(world: World) -> None:
    env = world(1, 10_000)
    env.reset()
    env._env._player.health = 9
    saved, courses = env.save(), []
    for chance in (5, 6, 5, None):
        env.restore(saved, chance)
        stream, mine = env._env._world.random, {id(thing.random) for thing in env._env._world.objects}
        assert mine == {id(stream)}, "creatures share the world's stream"
        for _ in range(12):
            env.step(NOOP)
        courses.append(env.semantic.tobytes())
    assert courses[0] == courses[2] and len(set(courses)) == 3


def test_a_saved_world_does_not_change_with_the_game_and_an_end_is_not_saved(world: World) -> None:
    env = world(0, 10_000)
    env.reset()
    saved = env.save()
    env._env._player.inventory["wood"] = 5
    env._env._world[(10, 10)] = "table"
    env.restore(saved)
    assert env.inventory["wood"] == 0 and env._env._world[(10, 10)][0] != "table"
    env._env._player.health = 0
    env.step(NOOP)
    with pytest.raises(AssertionError, match="save before"):
        env.save()


def test_a_missing_crafter_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def refuse(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "crafter":
            raise ImportError("No module named 'crafter'")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(UserError, match="pip install crafter"):
        CrafterEnv(0, 10)
