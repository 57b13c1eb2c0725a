"""The dynamics transformer written out: norms, rotary embedding, attention as two products and a softmax, no cache.

Parameters have the names and shapes of `fastdreamer.dynamics.world_model.WorldModel`, so either loads the other's
state. Source: Dreamer 4 (arXiv:2509.24527), section 3.4.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from fastdreamer.config import DynamicsConfig, ForcingConfig
from fastdreamer.dynamics.world_model import WorldModel
from fastdreamer.shapes import CHANNELS, TOKENS, LatentClock

FIRST_SPATIAL = 2  # the index after the action token and the (tau, d) token


class RMSNorm(nn.Module):
    """x / sqrt(mean x^2 + eps) times a gain. Source: arXiv:1910.07467."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
        return (x / torch.sqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * self.weight).to(x.dtype)


def rotate(x: Float[Tensor, "b q s e"], first: int = 0) -> Float[Tensor, "b q s e"]:
    """Rotary embedding of positions first, first + 1, .. along the last axis but one. Source: RoFormer, 2104.09864."""
    half = x.shape[-1] // 2
    rates = 10_000.0 ** (-torch.arange(half, device=x.device) / half)
    angles = (first + torch.arange(x.shape[-2], device=x.device))[:, None] * rates
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    first_half, second = x[..., :half], x[..., half:]
    return torch.cat([first_half * cos - second * sin, second * cos + first_half * sin], -1)


class Attention(nn.Module):
    """Grouped-query attention with QK-norm, rotary embedding and an optional soft-cap."""

    def __init__(self, config: DynamicsConfig) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.soft_cap = config.heads, config.kv_heads, config.soft_cap
        self.width = config.dim // config.heads
        self.qkv = nn.Linear(config.dim, (config.heads + 2 * config.kv_heads) * self.width, bias=False)
        self.query_norm = RMSNorm(self.width)
        self.key_norm = RMSNorm(self.width)
        self.out = nn.Linear(config.dim, config.dim, bias=False)

    def forward(self, x: Float[Tensor, "b s d"], mask: Bool[Tensor, "s s"]) -> Float[Tensor, "b s d"]:
        """`mask` is [query, key], True where the query may read the key."""
        return self.read(*self.project(x), mask)

    def project(self, x: Float[Tensor, "b s d"], first: int = 0) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values (b, heads, s, e) of positions first, first + 1, .."""
        heads = self.qkv(x).unflatten(-1, (-1, self.width)).transpose(1, 2)
        query, key, value = heads.split([self.heads, self.kv_heads, self.kv_heads], 1)
        return rotate(self.query_norm(query), first), rotate(self.key_norm(key), first), value

    def read(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Bool[Tensor, "s t"] | None
    ) -> Float[Tensor, "b s d"]:
        """What the queries read; everything without a mask."""
        groups = self.heads // self.kv_heads
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
        scores = query @ key.transpose(-1, -2) / self.width**0.5
        if self.soft_cap > 0:
            scores = self.soft_cap * torch.tanh(scores / self.soft_cap)
        if mask is not None:
            scores = scores.masked_fill(~mask, float("-inf"))
        out: Tensor = self.out((scores.softmax(-1) @ value).transpose(1, 2).flatten(2))
        return out


class FeedForward(nn.Module):
    """SwiGLU feed-forward layer. Source: arXiv:2002.05202."""

    def __init__(self, config: DynamicsConfig) -> None:
        super().__init__()
        hidden = int(config.dim * config.mlp_ratio + 7) // 8 * 8
        self.gate_up = nn.Linear(config.dim, 2 * hidden, bias=False)
        self.down = nn.Linear(hidden, config.dim, bias=False)

    def forward(self, x: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
        gate, up = self.gate_up(x).chunk(2, -1)
        out: Tensor = self.down(gate * torch.sigmoid(gate) * up)
        return out


class Block(nn.Module):
    """Pre-norm attention and feed-forward, each with a residual."""

    def __init__(self, config: DynamicsConfig, is_time: bool) -> None:
        super().__init__()
        self.is_time = is_time
        self.attention_norm = RMSNorm(config.dim)
        self.attention = Attention(config)
        self.feed_forward_norm = RMSNorm(config.dim)
        self.feed_forward = FeedForward(config)

    def forward(self, x: Float[Tensor, "b l s d"], mask: Bool[Tensor, "m m"]) -> Float[Tensor, "b l s d"]:
        """Attends over l in a time block and over s in a space block; the mask is of that axis."""
        rows = self.attention_norm(x)
        if self.is_time:
            rows = rows.transpose(1, 2)
        rows = self.attention(rows.flatten(0, 1), mask).unflatten(0, rows.shape[:2])
        x = x + (rows.transpose(1, 2) if self.is_time else rows)
        out: Tensor = x + self.feed_forward(self.feed_forward_norm(x))
        return out


class Transformer(nn.Module):
    """Blocks and a last norm. Every `time_every`-th block, the first included, attends over time."""

    def __init__(self, config: DynamicsConfig) -> None:
        super().__init__()
        self.context = config.context
        self.blocks = nn.ModuleList(Block(config, i % config.time_every == 0) for i in range(config.layers))
        self.norm = RMSNorm(config.dim)

    def forward(self, x: Float[Tensor, "b l s d"], agents: int) -> Float[Tensor, "b l s d"]:
        """The last `agents` tokens of a step read everything and are read by nothing."""
        step, token = (torch.arange(size, device=x.device) for size in x.shape[1:3])
        back = step[:, None] - step[None, :]
        time_mask = (back >= 0) & (back < self.context)
        world = x.shape[2] - agents
        space_mask = (token[None, :] < world) | (token[:, None] >= world)
        for block in self.blocks:
            x = block(x, time_mask if block.is_time else space_mask)
        out: Tensor = self.norm(x)
        return out


class ActionEmbedding(nn.Module):
    """The sum of an embedding for each (position, component, choice) of a chunk; `none` where no action is known."""

    offsets: Tensor

    def __init__(self, chunk: int, sizes: tuple[int, ...], dim: int) -> None:
        super().__init__()
        self.table = nn.Embedding(chunk * sum(sizes), dim)
        self.none = nn.Parameter(torch.zeros(dim))
        component = torch.tensor([0, *sizes[:-1]]).cumsum(0)
        offsets = torch.arange(chunk)[:, None] * sum(sizes) + component
        self.register_buffer("offsets", offsets, persistent=False)

    def forward(
        self, actions: Int[Tensor, "b l c k"], valid: Bool[Tensor, "b l c"], labelled: Bool[Tensor, " b"]
    ) -> Float[Tensor, "b l d"]:
        known = valid & labelled[:, None, None]
        each = self.table(actions + self.offsets).sum(-2)
        total = torch.where(known[..., None], each, 0.0).sum(-2)
        return torch.where(known.any(-1)[..., None], total, self.none)


class StepTokens(nn.Module):
    """[action | (tau, d) | spatial | registers] of every step."""

    def __init__(self, config: DynamicsConfig, forcing: ForcingConfig, chunk: int, sizes: tuple[int, ...]) -> None:
        super().__init__()
        dim = config.dim
        self.actions = ActionEmbedding(chunk, sizes, dim)
        self.signal = nn.Embedding(forcing.finest_steps, dim // 2)
        self.step_size = nn.Embedding(forcing.finest_steps.bit_length(), dim - dim // 2)
        self.spatial = nn.Linear(CHANNELS, dim)
        self.place = nn.Parameter(torch.zeros(TOKENS, dim))
        self.registers = nn.Parameter(torch.zeros(config.registers, dim))

    def forward(
        self,
        noisy: Float[Tensor, "b l n z"],
        signal: Int[Tensor, "b l"],
        step_size: Int[Tensor, "b l"],
        action: Float[Tensor, "b l d"],
    ) -> Float[Tensor, "b l s d"]:
        level = torch.cat([self.signal(signal), self.step_size(step_size)], -1)
        spatial = self.spatial(noisy) + self.place
        registers = self.registers.expand(*signal.shape, -1, -1)
        return torch.cat([action[:, :, None], level[:, :, None], spatial, registers], 2)


class NaiveWorldModel(nn.Module):
    """Predicts clean latents of whole sequences."""

    mean: Tensor
    std: Tensor

    def __init__(
        self, config: DynamicsConfig, forcing: ForcingConfig, clock: LatentClock, sizes: tuple[int, ...]
    ) -> None:
        super().__init__()
        self.forcing, self.clock = forcing, clock
        self.tokens = StepTokens(config, forcing, clock.frames_per_latent, sizes)
        self.transformer = Transformer(config)
        self.readout = nn.Linear(config.dim, CHANNELS)
        self.register_buffer("mean", torch.zeros(clock.positions, CHANNELS))
        self.register_buffer("std", torch.ones(clock.positions, CHANNELS))

    @classmethod
    def copy_of(cls, world: WorldModel) -> NaiveWorldModel:
        """The same function, with a copy of the weights, on the same device."""
        model = cls(world.config, world.forcing, world.clock, world.sizes)
        model.load_state_dict(world.state_dict())
        return model.to(world.mean.device)

    def normalise(self, raw: Float[Tensor, "b l n z"], positions: Int[Tensor, "b l"]) -> Float[Tensor, "b l n z"]:
        """Raw pooled latents to zero mean and unit spread by (position in the tokenizer window, channel)."""
        return (raw - self.mean[positions][:, :, None]) / self.std[positions][:, :, None]

    def embed_actions(
        self, actions: Int[Tensor, "b l c k"], valid: Bool[Tensor, "b l c"], labelled: Bool[Tensor, " b"]
    ) -> Float[Tensor, "b l d"]:
        """Action tokens of the chunks that lead into each step."""
        out: Tensor = self.tokens.actions(actions, valid, labelled)
        return out

    def forward(
        self,
        noisy: Float[Tensor, "b l n z"],
        signal: Int[Tensor, "b l"],
        step_size: Int[Tensor, "b l"],
        action: Float[Tensor, "b l d"],
        agents: Float[Tensor, "b a d"] | None = None,
    ) -> tuple[Float[Tensor, "b l n z"], Float[Tensor, "b l a d"]]:
        """(clean latents, what the agent tokens read), in fp32; arguments as WorldModel.read's."""
        x = self.tokens(noisy, signal, step_size, action)
        world = x.shape[2]
        if agents is not None:
            x = torch.cat([x, agents[:, None].expand(-1, x.shape[1], -1, -1)], 2)
        x = self.transformer(x, x.shape[2] - world)
        spatial = x[:, :, FIRST_SPATIAL : FIRST_SPATIAL + TOKENS]
        return self.readout(spatial).float(), x[:, :, world:].float()
