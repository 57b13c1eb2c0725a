"""Attention, RoPE and feed-forward layers of the block-causal transformer, with a ring cache for the time layers.

Source: Dreamer 4 (arXiv:2509.24527), section 3.4: pre-norm RMSNorm, SwiGLU, RoPE, QK-norm, logit soft-cap, GQA.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from fastdreamer.config import DynamicsConfig
from fastdreamer.dynamics.cache import LayerCache
from fastdreamer.dynamics.norm import RMSNorm


def rotate(x: Float[Tensor, "... s e"], at: Int[Tensor, " s"]) -> Float[Tensor, "... s e"]:
    """Rotary position embedding of the last two axes (positions, head width), angles in fp32.

    Source: RoFormer, arXiv:2104.09864, Eq. 34, base 10,000.
    """
    half = x.shape[-1] // 2
    rates = 10_000.0 ** (-torch.arange(half, device=x.device, dtype=torch.float32) / half)
    angles = at.to(torch.float32)[:, None] * rates
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    first, second = x.split(half, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


def attend(
    query: Float[Tensor, "b q s e"],
    key: Float[Tensor, "b kv t e"],
    value: Float[Tensor, "b kv t e"],
    mask: Bool[Tensor, "s t"] | None = None,
    is_causal: bool = False,
    soft_cap: float = 0.0,
) -> Float[Tensor, "b q s e"]:
    """Grouped-query attention; fused, but for a soft-cap, and for bf16 on a CPU.

    The fused CPU kernel's backward is 10 times slower in bf16 than two batched products are (NOTES.md).
    """
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    if soft_cap <= 0 and not (query.device.type == "cpu" and query.dtype == torch.bfloat16):
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=is_causal)
    scores = (query @ key.transpose(-1, -2)).float() * query.shape[-1] ** -0.5
    if soft_cap > 0:
        scores = soft_cap * torch.tanh(scores / soft_cap)
    if is_causal:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    return scores.softmax(-1).to(value.dtype) @ value


class Attention(nn.Module):
    """Projections, QK-norm and RoPE shared by space and time layers."""

    def __init__(self, config: DynamicsConfig) -> None:
        super().__init__()
        self.heads, self.kv_heads = config.heads, config.kv_heads
        self.width = config.dim // config.heads
        self.soft_cap = config.soft_cap
        self.qkv = nn.Linear(config.dim, (config.heads + 2 * config.kv_heads) * self.width, bias=False)
        self.query_norm = RMSNorm(self.width)
        self.key_norm = RMSNorm(self.width)
        self.out = nn.Linear(config.dim, config.dim, bias=False)

    def project(self, x: Float[Tensor, "b s d"], at: Int[Tensor, " s"]) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values as (b, heads, s, e), rotated to their positions."""
        heads = self.qkv(x).unflatten(-1, (-1, self.width)).transpose(1, 2)
        query, key, value = heads.split([self.heads, self.kv_heads, self.kv_heads], dim=1)
        return rotate(self.query_norm(query), at), rotate(self.key_norm(key), at), value

    def merge(self, heads: Float[Tensor, "b q s e"]) -> Float[Tensor, "b s d"]:
        out: Tensor = self.out(heads.transpose(1, 2).flatten(2))
        return out


class SpaceAttention(Attention):
    """Full attention inside a step. The last `agents` tokens read everything and are read by nothing."""

    def forward(self, x: Float[Tensor, "b l s d"], agents: int) -> Float[Tensor, "b l s d"]:
        batch, steps, tokens, _ = x.shape
        query, key, value = self.project(x.flatten(0, 1), torch.arange(tokens, device=x.device))
        world = tokens - agents
        heads = attend(query[:, :, :world], key[:, :, :world], value[:, :, :world], soft_cap=self.soft_cap)
        if agents:
            heads = torch.cat([heads, attend(query[:, :, world:], key, value, soft_cap=self.soft_cap)], dim=2)
        return self.merge(heads).unflatten(0, (batch, steps))


class TimeAttention(Attention):
    """Causal attention across steps, a token position at a time, over at most `context` steps."""

    def __init__(self, config: DynamicsConfig) -> None:
        super().__init__(config)
        self.context = config.context

    def forward(self, x: Float[Tensor, "b l s d"], cache: LayerCache | None = None) -> Float[Tensor, "b l s d"]:
        batch, steps, tokens, _ = x.shape
        sequences = x.transpose(1, 2).flatten(0, 1)
        if cache is not None:
            query, key, value = self.project(sequences, cache.position)
            heads = attend(query, *cache.write(key, value), mask=cache.mask(), soft_cap=self.soft_cap)
        else:
            at = torch.arange(steps, device=x.device)
            query, key, value = self.project(sequences, at)
            if steps <= self.context:
                heads = attend(query, key, value, is_causal=True, soft_cap=self.soft_cap)
            else:
                back = at[:, None] - at[None, :]
                band = (back >= 0) & (back < self.context)
                heads = attend(query, key, value, mask=band, soft_cap=self.soft_cap)
        return self.merge(heads).unflatten(0, (batch, tokens)).transpose(1, 2)


class FeedForward(nn.Module):
    """SwiGLU. Source: Shazeer 2020, arXiv:2002.05202."""

    def __init__(self, config: DynamicsConfig) -> None:
        super().__init__()
        hidden = int(config.dim * config.mlp_ratio + 7) // 8 * 8
        self.gate_up = nn.Linear(config.dim, 2 * hidden, bias=False)
        self.down = nn.Linear(hidden, config.dim, bias=False)

    def forward(self, x: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        out: Tensor = self.down(F.silu(gate) * up)
        return out
