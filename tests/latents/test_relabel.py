"""Rewards of named tasks from what a store counts: which episodes have them, what is refused, what stays shared."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from latents.episodes import CLOCK, numbered

from fastdreamer.errors import UserError
from fastdreamer.latents.relabel import check_task, relabelled
from fastdreamer.latents.store import Episode


def counting(name: str, **counters: list[int]) -> Episode:
    """An episode of 5 frames that counts."""
    arrays = vars(numbered(5, CLOCK)) | {"latents": torch.zeros(5, 16, 16).half()}
    arrays["actions"] = arrays["actions"].byte()
    return Episode(name, "train", **arrays, counters={key: torch.tensor(values) for key, values in counters.items()})


def store_of(*episodes: Episode) -> Any:
    return SimpleNamespace(path=Path("here"), episodes=list(episodes))


LOGS = counting("logs", wood=[0, 1, 1, 3, 2], sapling=[0, 0, 0, 0, 0])
TREES = counting("trees", sapling=[0, 1, 0, 1, 1])
BARE = counting("bare")


def test_every_task_has_its_rewards_and_latents_are_shared() -> None:
    store = store_of(LOGS, TREES)
    wood, first, recorded = relabelled(store, store.episodes, ("wood", "first:sapling", "reward"))
    assert [episode.rewards.tolist() for episode in wood] == [[1, 0, 2, 0], [0, 0, 0, 0]]
    assert [episode.rewards.tolist() for episode in first] == [[0, 0, 0, 0], [1, 0, 0, 0]]
    assert torch.equal(recorded[0].rewards, LOGS.rewards)
    assert [[episode.task for episode in view] for view in (wood, first, recorded)] == [[0, 0], [1, 1], [2, 2]]
    assert all(episode.rewarded for view in (wood, first, recorded) for episode in view)
    assert wood[0].latents is first[0].latents is LOGS.latents


def test_without_tasks_and_with_one_the_episodes_keep_their_recorded_task_number() -> None:
    numbered_task = replace(LOGS, task=3)
    store = store_of(numbered_task)
    ((plain,),) = relabelled(store, store.episodes, ())
    assert plain is numbered_task
    ((wood,),) = relabelled(store, store.episodes, ("wood",))
    assert wood.task == 3 and wood.rewards.sum() == 3


def test_an_episode_without_counters_has_no_rewards_but_the_recorded_ones() -> None:
    store = store_of(LOGS, BARE, replace(LOGS, rewarded=False))
    wood, recorded = relabelled(store, store.episodes, ("wood", "reward"))
    assert [episode.rewarded for episode in wood] == [True, False, True]
    assert [episode.rewarded for episode in recorded] == [True, True, False]


def test_a_task_that_is_not_counted_is_refused_with_the_nearest_counter_first() -> None:
    for task in ("saplings", "first:saplings"):
        with pytest.raises(UserError, match=f"task {task}: store here does not count that; it counts sapling, wood$"):
            relabelled(store_of(LOGS, TREES), [LOGS], (task,))
    with pytest.raises(UserError, match="task unlocks: .* it counts"):
        check_task(store_of(LOGS), "unlocks")


def test_many_counters_are_not_all_named() -> None:
    many = counting("many", **{f"item{i}": [0] * 5 for i in range(30)})
    with pytest.raises(UserError, match=r"and 20 more$"):
        check_task(store_of(many), "wood")


def test_recordings_without_counters_are_refused_unless_the_task_is_the_recorded_reward() -> None:
    with pytest.raises(UserError, match="recordings in store here hold no counters: encode recordings that have them"):
        check_task(store_of(BARE), "wood")
    check_task(store_of(BARE), "reward")
