"""Sampling one latent step and a whole rollout, against recomputing the sequence at every denoising pass."""

from __future__ import annotations

from functools import partial

import torch

from bench.gate.rows.base import GateRow, Place, RowWork, close
from bench.naive import arms
from bench.naive.model import NaiveWorldModel
from bench.naive.rollout import sample_next as sample_plainly
from fastdreamer.dynamics.forcing import context_index
from fastdreamer.dynamics.sampler import as_context, commit, sample_next


def sampling_step(place: Place) -> RowWork:
    """The next step after a full window but one, from the cache; the cache is filled once."""
    config = place.config("phase3.batch_size=8")
    work = arms.build(config, place.device)
    world, crops = work.world, work.crops
    past = config.dynamics.window - 1
    plain = NaiveWorldModel.copy_of(world)
    generator = torch.Generator(place.device).manual_seed(0)
    with torch.no_grad():
        real = world.normalise(crops.latents, crops.positions)[:, :past]
        action = world.embed_actions(crops.actions, crops.action_valid, crops.labelled)
        noise = torch.randn(real.shape, generator=generator, device=place.device)
        start = torch.randn(real[:, 0].shape, generator=generator, device=place.device)
        cache = world.new_cache(len(real), 0, past)
        commit(world, cache, real, action[:, :past], noise)
        _, noised = as_context(world, real, noise)

    @torch.no_grad()
    def ours() -> torch.Tensor:
        return sample_next(world, cache, action[:, past], start)

    @torch.no_grad()
    def reference() -> torch.Tensor:
        return sample_plainly(plain, noised, action, start, context_index(config.forcing))

    def check() -> None:
        close("the sampled step", ours(), reference(), 1e-4)

    return RowWork.of_calls(place, check, ours, reference, len(real), "steps")


def rollout(place: Place) -> RowWork:
    """Dreams of the configured horizon, as phase 3 runs them, from the same starts under the same noise."""
    config = place.config("phase3.batch_size=8")
    horizon, work = config.imagination.horizon, arms.build(config, place.device)
    ours = partial(arms.our_imagination(work, place.backend, "merged", [horizon]), horizon)
    plain = partial(arms.naive_imagination(work, place.backend), horizon)

    def check() -> None:
        one, other = ours(), plain()
        close("the actions", one.actions, other.actions, 0)
        for name in ("latents", "rewards", "continues"):
            close(f"the {name}", getattr(one, name), getattr(other, name), 1e-3)

    return RowWork.of_calls(place, check, ours, plain, config.phase3.batch_size * horizon, "steps")


ROWS = (GateRow("sampling step", sampling_step), GateRow("rollout", rollout))
