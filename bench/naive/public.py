"""Phase 1 as the fastest public PyTorch implementation takes it, written here in our words, on the same batch.

Every block attends over space, under an explicit mask, and every `time_every`-th over time too, on contiguous copies;
projections have biases, positions are sinusoids added once, norms are written out, there is no QK-norm. A step has an
action token, one for the signal level and one for the step size. The feed-forward layers are as wide as makes the
parameters as many as ours. The loss is P's; half-steps run on bootstrap rows alone, in a graph that is then cut.
Source: Dreamer 4 (arXiv:2509.24527); the layout is that of github.com/nicklashansen/dreamer4 at bdeddfe.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from fastdreamer.config import Config, DynamicsConfig, TrainConfig
from fastdreamer.dynamics.forcing import Levels
from fastdreamer.shapes import CHANNELS, TOKENS
from fastdreamer.training.optim import learning_rate

FIRST_SPATIAL = 3


class RMSNorm(nn.Module):
    """x times gain / sqrt(mean x^2 + eps)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(width))

    def forward(self, x: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
        return x * (self.gain / torch.sqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))


class Attention(nn.Module):
    """Multi-head attention with biases."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(
        self, x: Float[Tensor, "b s d"], mask: Bool[Tensor, "b 1 s s"] | None = None, is_causal: bool = False
    ) -> Float[Tensor, "b s d"]:
        query, key, value = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.qkv(x).chunk(3, -1))
        out = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=is_causal)
        merged: Tensor = self.out(out.transpose(1, 2).contiguous().flatten(2))
        return merged


class Block(nn.Module):
    """Attention over space, in some blocks over time, and SwiGLU; pre-norm with residuals."""

    def __init__(self, config: DynamicsConfig, has_time: bool, hidden: int) -> None:
        super().__init__()
        dim = config.dim
        self.space_norm, self.space = RMSNorm(dim), Attention(dim, config.heads)
        self.time_norm = RMSNorm(dim) if has_time else None
        self.time = Attention(dim, config.heads) if has_time else None
        self.feed_forward_norm = RMSNorm(dim)
        self.up_gate, self.down = nn.Linear(dim, 2 * hidden), nn.Linear(hidden, dim)

    def forward(self, x: Float[Tensor, "b l s d"], mask: Bool[Tensor, "1 1 s s"]) -> Float[Tensor, "b l s d"]:
        batch, steps, tokens, dim = x.shape
        rows = self.space_norm(x).reshape(batch * steps, tokens, dim)
        x = x + self.space(rows, mask.expand(batch * steps, 1, tokens, tokens)).view_as(x)
        if self.time is not None and self.time_norm is not None:
            rows = self.time_norm(x).permute(0, 2, 1, 3).contiguous().view(batch * tokens, steps, dim)
            rows = self.time(rows, is_causal=True).view(batch, tokens, steps, dim)
            x = x + rows.permute(0, 2, 1, 3).contiguous()
        up, gate = self.up_gate(self.feed_forward_norm(x)).chunk(2, -1)
        out: Tensor = x + self.down(up * F.silu(gate))
        return out


def sinusoids(count: int, dim: int) -> Float[Tensor, "s d"]:
    """Sine at even and cosine at odd channels. Source: arXiv:1706.03762, section 3.5."""
    channel = torch.arange(dim, dtype=torch.float32)
    angles = torch.arange(count, dtype=torch.float32)[:, None] * torch.exp(
        -math.log(10_000.0) * 2 * (channel / 2).floor() / dim
    )
    return torch.where(channel % 2 == 0, angles.sin(), angles.cos())


class PublicWorldModel(nn.Module):
    """Predicts clean latents of whole sequences."""

    mask: Tensor

    def __init__(self, config: Config, choices: int, hidden: int) -> None:
        super().__init__()
        dynamics, finest = config.dynamics, config.forcing.finest_steps
        dim = dynamics.dim
        self.registers = nn.Parameter(torch.randn(dynamics.registers, dim) * 0.02)
        self.base = nn.Parameter(torch.randn(dim) * 0.02)
        self.action_in, self.action_out = nn.Linear(choices, 2 * dim), nn.Linear(2 * dim, dim)
        self.signal, self.step_size = nn.Embedding(finest + 1, dim), nn.Embedding(finest.bit_length(), dim)
        self.spatial, self.readout = nn.Linear(CHANNELS, dim), nn.Linear(dim, CHANNELS)
        self.blocks = nn.ModuleList(
            Block(dynamics, (i + 1) % dynamics.time_every == 0, hidden) for i in range(dynamics.layers)
        )
        tokens = FIRST_SPATIAL + TOKENS + dynamics.registers
        self.register_buffer("mask", torch.ones(1, 1, tokens, tokens, dtype=torch.bool), persistent=False)
        nn.init.zeros_(self.readout.weight)
        nn.init.zeros_(self.readout.bias)

    def forward(
        self,
        noisy: Float[Tensor, "b l n z"],
        signal: Int[Tensor, "b l"],
        step_size: Int[Tensor, "b l"],
        action: Float[Tensor, "b l h"],
    ) -> Float[Tensor, "b l n z"]:
        """Predict; `action` is the multi-hot of the chunk that leads into each step."""
        batch, steps = signal.shape
        led = self.action_out(F.silu(self.action_in(action))) + self.base
        parts = [led[:, :, None], self.signal(signal)[:, :, None], self.step_size(step_size)[:, :, None]]
        parts += [self.spatial(noisy), self.registers.expand(batch, steps, -1, -1)]
        x = torch.cat(parts, 2)
        places = sinusoids(steps, x.shape[-1])[None, :, None] + sinusoids(x.shape[2], x.shape[-1])[None, None]
        x = x + places.to(x) * x.shape[-1] ** -0.5
        for block in self.blocks:
            x = block(x, self.mask)
        out: Tensor = self.readout(x[:, :, FIRST_SPATIAL : FIRST_SPATIAL + TOKENS])
        return out


def as_large(config: Config, choices: int, parameters: int) -> PublicWorldModel:
    """The network whose feed-forward width brings it nearest to a number of parameters."""
    sizes = [sum(p.numel() for p in PublicWorldModel(config, choices, hidden).parameters()) for hidden in (8, 16)]
    hidden = 8 + 8 * round((parameters - sizes[0]) / (sizes[1] - sizes[0]))
    return PublicWorldModel(config, choices, max(8, hidden))


def forcing_loss(
    model: PublicWorldModel,
    clean: Float[Tensor, "b l n z"],
    noise: Float[Tensor, "b l n z"],
    action: Float[Tensor, "b l h"],
    levels: Levels,
    finest: int,
) -> Tensor:
    """Shortcut forcing in velocities, all steps valid; the first `levels.boots` rows are bootstrap."""
    tau = (levels.signal / finest)[..., None, None]
    noisy = (1 - tau) * noise + tau * clean
    prediction = model(noisy, levels.signal, levels.step_size, action)
    weight, boots = 0.9 * levels.signal / finest + 0.1, levels.boots
    flow = ((prediction[boots:] - clean[boots:]).pow(2).mean((-2, -1)) * weight[boots:]).sum()
    if not boots:
        return flow / weight.numel()
    start, tau, led = noisy[:boots], tau[:boots], action[:boots]
    signal, half = levels.signal[:boots], levels.step_size[:boots] - 1
    d = (2.0**half / finest)[..., None, None]
    first = (model(start, signal, half, led) - start) / (1 - tau)
    middle = start + first * d
    second = (model(middle, signal + 2**half, half, led) - middle) / (1 - tau - d)
    velocity = (prediction[:boots] - start) / (1 - tau)
    apart = (velocity - ((first + second) / 2).detach()).pow(2) * (1 - tau).pow(2)
    return (flow + (apart.mean((-2, -1)) * weight[:boots]).sum()) / weight.numel()


class PublicTrainer:
    """AdamW as it comes and clipping; no average of the weights."""

    def __init__(self, model: PublicWorldModel, config: TrainConfig) -> None:
        self.model, self.config, self.number = model, config, 0
        self.optimizer = torch.optim.AdamW(
            model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, betas=(0.9, 0.99)
        )

    def update(self, loss: Tensor) -> None:
        """Backward, clipping and AdamW."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.config, self.number)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip_norm)
        self.optimizer.step()
        self.number += 1
