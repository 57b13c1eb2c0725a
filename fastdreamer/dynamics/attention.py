"""Attention, RoPE and feed-forward layers of the block-causal transformer, with a ring cache for the time layers.

No mask over all pairs of steps is ever built: space layers and a band that covers the crop need none, a narrower band
is attended block by block, and cached steps share one row a query. Grouped queries are folded into the query axis, so
that keys and values are not repeated.
Source: Dreamer 4 (arXiv:2509.24527), section 3.4: pre-norm RMSNorm, SwiGLU, RoPE, QK-norm, logit soft-cap, GQA.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from fastdreamer.config import DynamicsConfig
from fastdreamer.dynamics import fused
from fastdreamer.dynamics.cache import CacheView, LayerCache
from fastdreamer.dynamics.norm import RMSNorm

Angles = tuple[Tensor, Tensor]
"""Cosines and sines (s, 1, e / 2) of the positions, in fp32; they broadcast over heads."""


def angles_of(at: Int[Tensor, " s"], width: int) -> Angles:
    """Rotation angles of positions for heads of `width` channels.

    Source: RoFormer, arXiv:2104.09864, Eq. 34, base 10,000.
    """
    half = width // 2
    rates = 10_000.0 ** (-torch.arange(half, device=at.device, dtype=torch.float32) / half)
    angles = at.to(torch.float32)[:, None, None] * rates
    return angles.cos(), angles.sin()


def attend(
    query: Float[Tensor, "b q s e"],
    key: Float[Tensor, "b kv t e"],
    value: Float[Tensor, "b kv t e"],
    mask: Bool[Tensor, "s t"] | None = None,
    is_causal: bool = False,
    soft_cap: float = 0.0,
    is_fused: bool | None = None,
) -> Float[Tensor, "b q s e"]:
    """Grouped-query attention; fused, but for a soft-cap, and on a CPU for bf16 and for a gradient without a mask.

    The fused CPU kernel's backward is 10 times slower in bf16 than two batched products are, and 1.6 times in fp32
    on two cores (NOTES.md). `is_fused` overrules that choice (a memory plan for a GPU, made on a CPU).
    """
    groups = query.shape[1] // key.shape[1]
    if is_fused is None:
        has_gradient = torch.is_grad_enabled() and query.requires_grad and mask is None and not is_causal
        is_fused = not (query.device.type == "cpu" and (has_gradient or query.dtype == torch.bfloat16))
    if is_causal and soft_cap <= 0 and is_fused:
        return F.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=groups > 1)
    if is_causal:
        mask = torch.ones(query.shape[2], key.shape[2], dtype=torch.bool, device=query.device).tril()
    if groups > 1:  # the queries that share a key stand in a row
        query = query.unflatten(1, (-1, groups)).flatten(2, 3)
        mask = None if mask is None else mask.repeat(groups, 1)
    if soft_cap <= 0 and is_fused:
        out = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    else:
        scores = (query @ key.transpose(-1, -2)).float() * query.shape[-1] ** -0.5
        if soft_cap > 0:
            scores = soft_cap * torch.tanh(scores / soft_cap)
        if mask is not None:
            scores = scores.masked_fill(~mask, float("-inf"))
        out = scores.softmax(-1).to(value.dtype) @ value
    return out.unflatten(2, (groups, -1)).flatten(1, 2) if groups > 1 else out


class Attention(nn.Module):
    """Projections, QK-norm and RoPE shared by space and time layers."""

    is_fused: bool | None = None  # see `attend`

    def __init__(self, config: DynamicsConfig) -> None:
        super().__init__()
        self.heads, self.kv_heads = config.heads, config.kv_heads
        self.width = config.dim // config.heads
        self.soft_cap = config.soft_cap
        self.qkv = nn.Linear(config.dim, (config.heads + 2 * config.kv_heads) * self.width, bias=False)
        self.query_norm = RMSNorm(self.width)
        self.key_norm = RMSNorm(self.width)
        self.out = nn.Linear(config.dim, config.dim, bias=False)

    def project(self, x: Float[Tensor, "*b d"], angles: Angles) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values as (*b, heads, e), rotated to their positions."""
        heads = fused.linear(x, self.qkv.weight).unflatten(-1, (-1, self.width))
        query, key, value = heads.split([self.heads, self.kv_heads, self.kv_heads], dim=-2)
        query = fused.rotated_norm(query, self.query_norm, *angles)
        return query, fused.rotated_norm(key, self.key_norm, *angles), value

    def own_values(self, x: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
        """What a token reads where all that it may read is like itself: its own value, in every head."""
        values = fused.linear(x, self.qkv.weight[-self.kv_heads * self.width :]).unflatten(-1, (-1, self.width))
        return values.repeat_interleave(self.heads // self.kv_heads, -2).flatten(-2)

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None, is_causal: bool = False
    ) -> Float[Tensor, "b q s e"]:
        """Call `attend` with this layer's settings."""
        return attend(query, key, value, mask, is_causal, self.soft_cap, self.is_fused)

    def merge(self, heads: Float[Tensor, "*b d"], residual: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
        """The output's projection of what the heads read, added to the residual."""
        return fused.linear(heads, self.out.weight, residual)


class SpaceAttention(Attention):
    """Full attention inside a step. Agent tokens read everything and are read by nothing."""

    def forward(
        self,
        x: Float[Tensor, "b l s d"],
        agents: Float[Tensor, "b l a d"] | None,
        angles: Angles,
        agent_angles: Angles,
    ) -> tuple[Float[Tensor, "b l s d"], Float[Tensor, "b l a d"] | None]:
        """What the heads read, side by side, before `merge`."""
        query, key, value = self.project(x, angles)
        out = self._inside(query, key, value)
        if agents is None:
            return out, None
        query, own_key, own_value = self.project(agents, agent_angles)
        return out, self._inside(query, torch.cat([key, own_key], 2), torch.cat([value, own_value], 2))

    def _inside(self, *heads: Float[Tensor, "b l _ _ e"]) -> Float[Tensor, "b l s d"]:
        query, key, value = (x.flatten(0, 1).transpose(1, 2) for x in heads)
        return self.attend(query, key, value).transpose(1, 2).flatten(2).unflatten(0, heads[0].shape[:2])


class TimeAttention(Attention):
    """Causal attention across steps, a token position at a time, over at most `context` steps."""

    def __init__(self, config: DynamicsConfig) -> None:
        super().__init__(config)
        self.context = config.context

    def forward(
        self,
        x: Float[Tensor, "b l s d"],
        agents: Float[Tensor, "b l a d"] | None,
        angles: Angles,
        caches: tuple[LayerCache, LayerCache] | None = None,
        view: CacheView | None = None,
        first: int = 0,
    ) -> tuple[Float[Tensor, "b m s d"], Float[Tensor, "b l a d"] | None]:
        """What the heads of step `first` and later read, side by side, before `merge`."""
        own, theirs = caches or (None, None)
        read = None if agents is None else self._across(agents, angles, theirs, view)
        return self._across(x, angles, own, view, first), read

    def remember(self, x: Float[Tensor, "b l s d"], angles: Angles, cache: LayerCache, view: CacheView) -> None:
        """Write keys and values of new steps, without any queries."""
        heads = fused.linear(x, self.qkv.weight[self.heads * self.width :]).unflatten(-1, (-1, self.width))
        key, value = heads.chunk(2, dim=-2)
        cos, sin = angles
        key = fused.rotated_norm(key, self.key_norm, cos.unsqueeze(1), sin.unsqueeze(1))
        key, value = (heads.permute(0, 2, 3, 1, 4).flatten(0, 1) for heads in (key, value))
        cache.write(key, value, view.slots)

    def _across(
        self,
        x: Float[Tensor, "b l s d"],
        angles: Angles,
        cache: LayerCache | None,
        view: CacheView | None,
        first: int = 0,
    ) -> Float[Tensor, "b m s d"]:
        cos, sin = angles
        projected = self.project(x, (cos.unsqueeze(1), sin.unsqueeze(1)))
        if cache is None or view is None:  # tokens times heads stand for heads: no token is copied into another order
            query, key, value = (heads.flatten(2, 3).transpose(1, 2) for heads in projected)
            return self._banded(query, key, value).transpose(1, 2).unflatten(2, (x.shape[2], -1)).flatten(3)
        query, key, value = (heads.permute(0, 2, 3, 1, 4).flatten(0, 1) for heads in projected)
        out = self.attend(query[:, :, first:], *cache.write(key, value, view.slots), mask=view.mask[first:])
        return out.transpose(1, 2).flatten(2).unflatten(0, (-1, x.shape[2])).transpose(1, 2)

    def _banded(self, query: Tensor, key: Tensor, value: Tensor) -> Float[Tensor, "b q s e"]:
        """Blocks of `context` steps: each sees itself and the end of the one before it."""
        width, steps = self.context, query.shape[2]
        out = [self.attend(query[:, :, :width], key[:, :, :width], value[:, :, :width], is_causal=True)]
        for start in range(width, steps, width):
            last = min(start + width, steps)
            back = torch.arange(last - start + width, device=query.device) - torch.arange(
                last - start, device=query.device
            ).unsqueeze(1)
            keys, values = (x[:, :, start - width : last] for x in (key, value))
            out.append(self.attend(query[:, :, start:last], keys, values, mask=(back > 0) & (back <= width)))
        return torch.cat(out, dim=2) if len(out) > 1 else out[0]


class FeedForward(nn.Module):
    """SwiGLU feed-forward layer. Source: Shazeer 2020, arXiv:2002.05202."""

    def __init__(self, config: DynamicsConfig) -> None:
        super().__init__()
        hidden = int(config.dim * config.mlp_ratio + 7) // 8 * 8
        self.gate_up = nn.Linear(config.dim, 2 * hidden, bias=False)
        self.down = nn.Linear(hidden, config.dim, bias=False)

    def forward(self, x: Float[Tensor, "*b d"], residual: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
        """The layer of `x`, added to the residual."""
        return fused.linear(fused.swiglu(fused.linear(x, self.gate_up.weight)), self.down.weight, residual)
