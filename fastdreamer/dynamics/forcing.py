"""Shortcut forcing: noise levels on a grid, the flow and bootstrap losses, and the signal level of context.

tau runs from 0 (noise) to 1 (clean); d is a step size; both live on the grid of K_max = `finest_steps`. A sequence
is trained either as flow (d = d_min) or, with probability `boot_fraction`, as bootstrap (d > d_min): its target is the
average velocity of two half-steps of the model itself.
Source: Dreamer 4 (arXiv:2509.24527), Eq. 4, 6, 7, 8; P prints 1/d in tau's grid, a misprint for d. The share of
bootstrap sequences is ours: P's uniform d gives 6/7 of them at K_max 64, which collapses small models.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from fastdreamer.config import ForcingConfig

Predict = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""(noisy, signal index, step-size index, rows) -> clean latents, for the given rows of the batch."""


@dataclass(frozen=True)
class Levels:
    """Noise levels of a batch: indices on the grid, tau = signal / K_max and d = 2^step_size / K_max."""

    signal: Int[Tensor, "b l"]
    step_size: Int[Tensor, "b l"]
    is_boot: Bool[Tensor, " b"]

    def to(self, device: torch.device) -> Levels:
        """The same levels on another device."""
        return Levels(self.signal.to(device), self.step_size.to(device), self.is_boot.to(device))


def draw_levels(
    batch: int, steps: int, forcing: ForcingConfig, boot_fraction: float, generator: torch.Generator
) -> Levels:
    """d ~ the powers of two above d_min for bootstrap sequences, tau ~ U{0, d, .., 1-d}, a step at a time (CPU)."""
    finest = forcing.finest_steps
    is_boot = torch.rand(batch, generator=generator) < boot_fraction
    exponent = torch.randint(1, finest.bit_length(), (batch, steps), generator=generator)
    exponent = torch.where(is_boot[:, None], exponent, 0)
    size = 2**exponent
    signal = (torch.rand(batch, steps, generator=generator) * (finest // size)).long() * size
    return Levels(signal, exponent, is_boot)


def context_index(forcing: ForcingConfig) -> int:
    """Index of the context's signal level: `context_signal` snapped to the grid, below clean (0.9 -> 58 of 64)."""
    return min(round(forcing.context_signal * forcing.finest_steps), forcing.finest_steps - 1)


def mix(clean: Tensor, noise: Tensor, tau: Tensor | float) -> Tensor:
    """(1 - tau) noise + tau clean; a tensor tau is broadcast over the trailing axes."""
    return torch.lerp(noise, clean, tau)


def ramp(tau: Tensor) -> Tensor:
    """Loss weight 0.9 tau + 0.1 (P Eq. 8)."""
    return 0.9 * tau + 0.1


def boot_target(predict: Predict, noisy: Tensor, levels: Levels, finest: int, rows: Tensor) -> Tensor:
    """What the bootstrap prediction should be: noisy + (1 - tau) * mean velocity of two half-steps (no gradient)."""
    with torch.no_grad():
        signal, half = levels.signal[rows], levels.step_size[rows] - 1
        tau = (signal / finest)[..., None, None]
        d = (2.0**half / finest)[..., None, None]  # half of the step
        first = (predict(noisy, signal, half, rows).float() - noisy) / (1 - tau)
        middle = noisy + first * d
        second = (predict(middle, signal + 2**half, half, rows).float() - middle) / (1 - tau - d)
        return noisy + (1 - tau) * (first + second) / 2


def forcing_loss(
    predict: Predict,
    clean: Float[Tensor, "b l n z"],
    noise: Float[Tensor, "b l n z"],
    levels: Levels,
    finest: int,
    valid: Bool[Tensor, "b l"],
) -> dict[str, Tensor]:
    """Losses of one batch: `dynamics` is what is trained, `flow` and `boot` are its parts for watching.

    Half-steps run on bootstrap rows only, without gradient; velocities are fp32. The bootstrap loss is P's in the
    form that needs no division in the gradient: ||z^ - [z~ + (1-tau) sg(b1 + b2)/2]||^2.
    """
    tau = (levels.signal / finest)[..., None, None]
    noisy = mix(clean, noise, tau)
    everyone = torch.arange(len(clean), device=clean.device)
    prediction = predict(noisy, levels.signal, levels.step_size, everyone).float()
    rows = everyone[levels.is_boot]
    target = clean
    if len(rows):
        target = clean.clone()
        target[rows] = boot_target(predict, noisy[rows], levels, finest, rows)
    error = (prediction - target).square().mean((-2, -1))  # (b, l)
    weight = ramp(levels.signal / finest) * valid
    boot = levels.is_boot[:, None].expand_as(weight)

    def mean(mask: Tensor) -> Tensor:
        return (error * weight * mask).sum() / (valid & mask).sum().clamp(min=1)

    return {"dynamics": mean(torch.ones_like(boot)), "flow": mean(~boot).detach(), "boot": mean(boot).detach()}
