"""Fitting the linear start of the world model: one pass over the training split of a store, before phase 1."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch

from fastdreamer.dynamics.linear import Transitions
from fastdreamer.dynamics.world_model import WorldModel
from fastdreamer.latents.batch import EpisodeArrays, align


def fit_linear_start(world: WorldModel, episodes: Iterable[EpisodeArrays]) -> None:
    """Fits `world.linear` to episodes whose statistics the world model has; prints what it leaves."""
    assert world.linear is not None
    count = world.linear.fit(_transitions(world, episodes))
    left = float(world.linear.variance.mean())
    print(f"linear start: {count:,} transitions; it leaves {left:.3f} of the latents' variance", flush=True)


@torch.no_grad()
def _transitions(world: WorldModel, episodes: Iterable[EpisodeArrays]) -> Iterator[Transitions]:
    """Transitions of each episode between steps that are real; on the world model's device."""
    device = world.mean.device
    for episode in episodes:
        batch = align(episode, world.clock).to(device)
        real = batch.target_valid[0]
        both = real[1:] & real[:-1]
        latents = world.normalise(batch.latents.float(), batch.positions)[0].flatten(1)
        hot = world.hot_actions(batch.actions.long(), batch.action_valid & batch.labelled[:, None, None])[0]
        yield Transitions(latents[:-1][both], latents[1:][both], hot[1:][both])
