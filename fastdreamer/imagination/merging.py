"""The proof that merged commits are the plain order of passes: both run on the model in hand, in fp32."""

from __future__ import annotations

import torch
from torch import Tensor

from fastdreamer.dynamics.sampler import commit, commit_and_sample_next, sample_next
from fastdreamer.dynamics.world_model import WorldModel
from fastdreamer.errors import UserError
from fastdreamer.shapes import CHANNELS, TOKENS

TOLERANCE = 1e-4
"""Largest difference, relative to the largest latent: a few hundred roundings of fp32."""
BATCH = 2


@torch.no_grad()
def merged_difference(world: WorldModel, steps: int) -> float:
    """Largest relative difference of latents after `steps` imagined steps, under random actions and equal noise."""
    device = world.mean.device
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(2 * steps + 2, BATCH, TOKENS, CHANNELS, generator=generator).to(device)
    tokens = (torch.randn(steps + 1, BATCH, world.action_width, generator=generator) * 0.02).to(device)
    with torch.autocast(device.type, enabled=False):
        plain, merged = world.new_cache(BATCH), world.new_cache(BATCH, steps=2)
        a = b = noise[-1]
        pairs: list[tuple[Tensor, Tensor]] = []
        for k in range(steps):
            commit(world, plain, a[:, None], tokens[k][:, None], noise[2 * k][:, None])
            a = sample_next(world, plain, tokens[k + 1], noise[2 * k + 1])
            b = commit_and_sample_next(world, merged, b, tokens[k], noise[2 * k], tokens[k + 1], noise[2 * k + 1])
            pairs.append((a, b))
    first, second = (torch.stack(states) for states in zip(*pairs, strict=True))
    return float((first - second).abs().max() / first.abs().max().clamp(min=1e-6))


def prove_merged(world: WorldModel) -> float:
    """`merged_difference` past the first eviction (at most 40 steps).

    Raises:
        UserError: if it exceeds the tolerance.
    """
    difference = merged_difference(world, min(world.config.context + 2, 40))
    if not difference <= TOLERANCE:
        raise UserError(
            f"merged commits differ from the plain order by {difference:.1e} of the largest latent, more than "
            f"{TOLERANCE:g}: use imagination.merge_commit=off"
        )
    print(f"imagination: merged commits differ from the plain order by {difference:.1e}", flush=True)
    return difference
