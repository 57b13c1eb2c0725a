"""Tokens of a step, in the order the transformer sees them: made of latents, signal levels, step sizes and actions.

A step's tokens: [action | (tau, d) | n spatial | registers | agent tokens]; here are those before the registers.
Source: Dreamer 4, section 3.4.
"""

from __future__ import annotations

from math import isqrt

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from fastdreamer.config import DynamicsConfig, ForcingConfig
from fastdreamer.shapes import CHANNELS, TOKENS


class ActionEmbedding(nn.Module):
    """One token a chunk: the sum of an embedding for each (position, component, choice).

    Each position of the chunk has its own table, so permuting a chunk's actions changes the token. A step without
    actions (an episode's first, or unlabelled video) is the learned `none`.
    """

    def __init__(self, chunk: int, sizes: tuple[int, ...], dim: int) -> None:
        super().__init__()
        self.table = nn.Embedding(chunk * sum(sizes), dim)
        self.none = nn.Parameter(torch.randn(dim) * 0.02)
        nn.init.normal_(self.table.weight, std=0.02 / (chunk * len(sizes)) ** 0.5 * 4)
        self.register_buffer("offsets", choice_offsets(chunk, sizes), persistent=False)

    def forward(
        self, actions: Int[Tensor, "b l c k"], valid: Bool[Tensor, "b l c"], labelled: Bool[Tensor, " b"]
    ) -> Float[Tensor, "b l d"]:
        known = valid & labelled[:, None, None]
        assert isinstance(self.offsets, Tensor)
        chunk = (self.table(actions + self.offsets).sum(-2) * known.unsqueeze(-1)).sum(-2)
        return torch.where(known.any(-1, keepdim=True), chunk, self.none)


class StepTokens(nn.Module):
    """Builds the tokens that differ from step to step; `registers` and agent tokens are appended behind them."""

    def __init__(self, config: DynamicsConfig, forcing: ForcingConfig, chunk: int, sizes: tuple[int, ...]) -> None:
        super().__init__()
        dim = config.dim
        self.actions = ActionEmbedding(chunk, sizes, dim)
        self.signal = nn.Embedding(forcing.finest_steps, dim // 2)
        self.step_size = nn.Embedding(forcing.finest_steps.bit_length(), dim - dim // 2)
        self.count = config.spatial_tokens
        self.spatial = nn.Linear(CHANNELS * TOKENS // self.count, dim)
        self.expected = nn.Linear(CHANNELS * TOKENS // self.count, dim, bias=False) if config.linear_start else None
        self.place = nn.Parameter(torch.randn(self.count, dim) * 0.02)
        self.registers = nn.Parameter(torch.randn(config.registers, dim) * 0.02)

    @property
    def first_spatial(self) -> int:
        """Index of the first spatial token."""
        return 2

    def forward(
        self,
        noisy: Float[Tensor, "b l n z"],
        signal: Int[Tensor, "b l"],
        step_size: Int[Tensor, "b l"],
        action: Float[Tensor, "b l d"],
        expected: Float[Tensor, "b l n z"] | None = None,
    ) -> Float[Tensor, "b l s d"]:
        """`expected` is the linear prediction, where there is a linear start."""
        level = torch.cat([self.signal(signal), self.step_size(step_size)], dim=-1)
        spatial = self.spatial(joined(noisy, self.count)) + self.place
        if self.expected is not None and expected is not None:
            spatial = spatial + self.expected(joined(expected, self.count))
        parts = [action.unsqueeze(2), level.unsqueeze(2), spatial]
        dtype = spatial.dtype
        return torch.cat([p.to(dtype) for p in parts], dim=2)


def joined(latents: Float[Tensor, "*b n z"], count: int) -> Float[Tensor, "*b s y"]:
    """The 4x4 grid's tokens as `count` tokens, each of a square of neighbours, row by row."""
    if count == TOKENS:
        return latents
    side, inner = isqrt(count), isqrt(TOKENS // count)
    return latents.unflatten(-2, (side, inner, side, inner)).transpose(-4, -3).flatten(-3).flatten(-3, -2)


def parted(tokens: Float[Tensor, "*b s y"]) -> Float[Tensor, "*b n z"]:
    """Splits tokens again: the inverse of `joined`."""
    count = tokens.shape[-2]
    if count == TOKENS:
        return tokens
    side, inner = isqrt(count), isqrt(TOKENS // count)
    squares = tokens.unflatten(-1, (inner, inner, CHANNELS)).unflatten(-4, (side, side))
    return squares.transpose(-4, -3).flatten(-5, -2)


def choice_offsets(chunk: int, sizes: tuple[int, ...]) -> Int[Tensor, "c k"]:
    """Index of the first choice of each (position, component) among all choices of a chunk."""
    starts = torch.tensor([sum(sizes[:i]) for i in range(len(sizes))])
    return torch.arange(chunk)[:, None] * sum(sizes) + starts


def multi_hot(
    actions: Int[Tensor, "b l c k"], known: Bool[Tensor, "b l c"], offsets: Int[Tensor, "c k"], choices: int
) -> Float[Tensor, "b l h"]:
    """1 at every (position, component, choice) of a chunk that was taken; zeros where a position is unknown."""
    hot = torch.zeros(*actions.shape[:2], choices, device=actions.device)
    places = (actions + offsets).flatten(2)
    return hot.scatter_(-1, places, known.unsqueeze(-1).expand(actions.shape).flatten(2).to(hot.dtype))
