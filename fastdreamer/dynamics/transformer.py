"""The block-causal transformer: space layers inside a step, every `time_every`-th layer across steps.

A time layer opens each group: a step that is all noise fetches its past before the space layers mix it with the action.
With the time layer last, the same training leaves a one-step error 12 % higher (NOTES.md).
Source: Dreamer 4 (arXiv:2509.24527), section 3.4 and Figure 2.
"""

from __future__ import annotations

from itertools import repeat
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from fastdreamer.config import DynamicsConfig
from fastdreamer.dynamics.attention import Angles, FeedForward, SpaceAttention, TimeAttention, angles_of
from fastdreamer.dynamics.cache import CacheView, LayerCache, RingCache
from fastdreamer.dynamics.norm import RMSNorm

ALL = slice(None)


class Block(nn.Module):
    """Pre-norm attention (space or time) and SwiGLU, each with a residual."""

    def __init__(self, config: DynamicsConfig, is_time: bool) -> None:
        super().__init__()
        self.is_time = is_time
        self.attention_norm = RMSNorm(config.dim)
        self.attention: TimeAttention | SpaceAttention = TimeAttention(config) if is_time else SpaceAttention(config)
        self.feed_forward_norm = RMSNorm(config.dim)
        self.feed_forward = FeedForward(config)

    def forward(
        self,
        x: Float[Tensor, "b l s d"],
        agents: Float[Tensor, "b l a d"] | None,
        first: int,
        kept: slice,
        equals: Float[Tensor, "r d"] | None,
        same: Float[Tensor, "r d"] | None,
        *inputs: Any,
    ) -> tuple[Float[Tensor, "b m k d"], Float[Tensor, "b l a d"] | None]:
        """The `kept` ones of all tokens come out, of step `first` and later, and what becomes of `equals` behind them.

        `same` is that, where it is known already; `inputs` are for the attention.
        """
        normed = None if agents is None else self.attention_norm(agents)
        heads, read = self.attention(self.attention_norm(x), normed, *inputs)
        out = self._fed(self.attention.merge(heads[:, :, kept], x[:, first:, kept]))
        if equals is not None:
            same = self.of_equals(equals.to(out.dtype)) if same is None else same
            out = torch.cat([out, same.to(out.dtype).expand(*out.shape[:2], -1, -1)], 2)
        return out, None if agents is None else self._fed(self.attention.merge(read, agents))

    def remember(self, x: Float[Tensor, "b l s d"], angles: Angles, cache: LayerCache, view: CacheView) -> None:
        """Write what later steps will read of these, and nothing else."""
        assert isinstance(self.attention, TimeAttention)
        self.attention.remember(self.attention_norm(x), angles, cache, view)

    def of_equals(self, x: Float[Tensor, "r d"]) -> Float[Tensor, "r d"]:
        """What a time block makes of tokens that are the same at every step: attention over equal values gives them."""
        return self._fed(self.attention.merge(self.attention.own_values(self.attention_norm(x)), x))

    def _fed(self, x: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
        out: Tensor = self.feed_forward(self.feed_forward_norm(x), x)
        return out


class Transformer(nn.Module):
    """Tokens in, tokens out. With a cache, the steps given follow what the cache holds.

    Args:
        recomputes: keep only the blocks' inputs for the backward pass and compute the rest again (less memory).
    """

    def __init__(self, config: DynamicsConfig, recomputes: bool = False) -> None:
        super().__init__()
        self.recomputes = recomputes
        self.last_time = (config.layers - 1) // config.time_every * config.time_every
        self.width = config.dim // config.heads
        self.blocks = nn.ModuleList(Block(config, i % config.time_every == 0) for i in range(config.layers))
        self.norm = RMSNorm(config.dim)
        for block in self.blocks:
            for out in (block.attention.out, block.feed_forward.down):  # type: ignore[union-attr]
                nn.init.normal_(out.weight, std=0.02 / (2 * config.layers) ** 0.5)  # type: ignore[union-attr, arg-type]

    def forward(
        self,
        x: Float[Tensor, "b l s d"],
        registers: Float[Tensor, "r d"],
        agents: Float[Tensor, "b l a d"] | None,
        cache: RingCache | None,
        kept: slice,
        silent: int = 0,
    ) -> tuple[Float[Tensor, "b m k d"], Float[Tensor, "b l a d"] | None]:
        """The world's tokens and, apart from them, what agent tokens read: a frozen world then has no backward pass.

        Args:
            x: all of the world's tokens but the registers, which stand behind them.
            registers: the same at every step, so the first block, which attends over time, needs them once.
            agents: agent tokens, if any.
            cache: the past, if any.
            kept: the tokens that come out: the last block need not feed the others forward.
            silent: the first so many steps are written to the cache and do not come out (m = l - silent): nothing of
                them is computed behind the last time layer. Only without agent tokens.
        """
        steps = x.shape[1]
        tokens, count = x.shape[2] + len(registers), 0 if agents is None else agents.shape[2]
        view = cache.view(steps) if cache is not None else None
        layers = iter(cache.layers) if cache is not None else repeat(None)
        places = torch.arange(tokens + count, device=x.device)
        space = angles_of(places[:tokens], self.width), angles_of(places[tokens:], self.width)
        time = angles_of(view.steps if view else torch.arange(steps, device=x.device), self.width)
        for number, block in enumerate(self.blocks):
            assert isinstance(block, Block)
            layer, first = next(layers) if block.is_time else None, silent if number == self.last_time else 0
            if layer is not None and view is not None and first == steps:
                block.remember(x, time, layer[0], view)
                return x[:, steps:, kept], None
            is_last = number == len(self.blocks) - 1
            inputs = (
                first,
                kept if is_last else ALL,
                registers if number == 0 and not is_last and len(registers) else None,
                cache.equals if cache is not None else None,
                *((time, layer, view, first) if block.is_time else space),
            )
            if self.recomputes and torch.is_grad_enabled():
                x, agents = checkpoint(block, x, agents, *inputs, use_reentrant=False, preserve_rng_state=False)
            else:
                x, agents = block(x, agents, *inputs)
        return self.norm(x), None if agents is None else self.norm(agents)
