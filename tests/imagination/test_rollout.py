"""The plain rollout where something is given: the first chunk, or all noise."""

from __future__ import annotations

import torch

from fastdreamer.imagination.rollout import draw_noise, imagine

from .worlds import largest_difference, rollouts


def test_the_first_chunk_can_be_forced_and_the_policy_goes_on() -> None:
    made = rollouts(count=4, context=2)
    free = made.reference(3)
    first = (free.actions[:, 0] + 1) % 17
    forced = imagine(made.world, made.agent, made.batch, 3, torch.Generator().manual_seed(3), first=first)
    assert torch.equal(forced.actions[:, 0], first) and torch.equal(forced.latents[:, 0], free.latents[:, 0])
    assert not torch.equal(forced.latents[:, 1], free.latents[:, 1]), "the world model was told"
    own = imagine(made.world, made.agent, made.batch, 3, torch.Generator().manual_seed(3), first=free.actions[:, 0])
    assert largest_difference(own, free) == 0


def test_given_noise_is_used_instead_of_the_generators() -> None:
    made = rollouts(count=4, context=2)
    drawn = draw_noise(made.world, 4, 2, 3, torch.Generator().manual_seed(3))
    again = imagine(made.world, made.agent, made.batch, 3, torch.Generator().manual_seed(9), drawn=drawn)
    assert largest_difference(again, made.reference(3)) == 0
