"""Relabelling: the rewards of named tasks, from what a latent store counts. Nothing is encoded again or rewritten."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches

import torch

from fastdreamer.errors import UserError
from fastdreamer.latents.store import Episode, LatentStore
from fastdreamer.recordings.tasks import FIRST, RECORDED, counters_of, task_rewards

SHOWN = 10  # counters that a message names


def relabelled(store: LatentStore, episodes: Sequence[Episode], tasks: Sequence[str]) -> list[list[Episode]]:
    """The episodes with each task's rewards, a list a task; latents are shared. Without tasks: as recorded.

    An episode without counters has no rewards for a task that needs them; several tasks are numbered in their order.

    Raises:
        UserError: if the store does not count what a task needs.
    """
    if not tasks:
        return [list(episodes)]
    for task in tasks:
        check_task(store, task)
    return [[_with_rewards(e, task, i if len(tasks) > 1 else None) for e in episodes] for i, task in enumerate(tasks)]


def check_task(store: LatentStore, task: str) -> None:
    """Refuse a task that the store's counters do not give.

    Raises:
        UserError: naming the counters that there are, the likeliest first.
    """
    if task == RECORDED:
        return
    known = sorted({name for episode in store.episodes for name in episode.counted})
    if not known:
        raise UserError(
            f"task {task} needs counters, and the recordings in store {store.path} hold no counters: encode recordings "
            f"that have them, into another --store"
        )
    if not counters_of(task, known):
        close = get_close_matches(task.removeprefix(FIRST), known, n=len(known), cutoff=0.0)
        more = f" and {len(close) - SHOWN} more" if len(close) > SHOWN else ""
        raise UserError(
            f"task {task}: store {store.path} does not count that; it counts {', '.join(close[:SHOWN])}{more}"
        )


def _with_rewards(episode: Episode, task: str, number: int | None) -> Episode:
    numbered = episode if number is None else episode.changed(task=number)
    if task == RECORDED:
        return numbered
    counters = {name: values.numpy() for name, values in episode.counters.items()}
    rewards = torch.from_numpy(task_rewards(task, episode.rewards.numpy(), counters))
    return numbered.changed(rewards=rewards, rewarded=bool(counters))
