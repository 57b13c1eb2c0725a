"""Lambda-returns. Source: Dreamer 4 (arXiv:2509.24527), Eq. 10; Sutton & Barto, section 12.1."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from fastdreamer.imagination.rollout import Rollout


def lambda_returns(
    rewards: Float[Tensor, "b h"],
    continues: Float[Tensor, "b h"],
    next_values: Float[Tensor, "b h"],
    gamma: float,
    lambda_: float,
) -> Float[Tensor, "b h"]:
    """G_k = R_{k+1} + gamma c_{k+1} ((1 - lambda) v_{k+1} + lambda G_{k+1}), with G_H = v_H.

    Args:
        rewards: R_{k+1}, predicted at the state it arrives in.
        continues: c_{k+1}.
        next_values: v_{k+1}.
        gamma: discount a latent step.
        lambda_: mixing a latent step.
    """
    future = next_values[:, -1]
    out = []
    for k in reversed(range(rewards.shape[1])):
        mixed = (1 - lambda_) * next_values[:, k] + lambda_ * future
        future = rewards[:, k] + gamma * continues[:, k] * mixed
        out.append(future)
    return torch.stack(out[::-1], 1)


def rollout_returns(
    rollout: Rollout, values: Float[Tensor, "b s"], gamma: float, lambda_: float
) -> Float[Tensor, "b h"]:
    """Lambda-returns of imagined steps, from the values v_0 .. v_H of their states (s = H + 1)."""
    return lambda_returns(rollout.rewards, rollout.continues, values[:, 1:], gamma, lambda_)


def survival(continues: Float[Tensor, "b h"]) -> Float[Tensor, "b h"]:
    """w_k = prod_{j <= k} c_j for the states k = 0 .. H-1 (the start is alive): imagined steps after an end weigh 0.

    Args:
        continues: c_1 .. c_H.
    """
    return torch.cat([torch.ones_like(continues[:, :1]), continues[:, :-1]], 1).cumprod(1)
