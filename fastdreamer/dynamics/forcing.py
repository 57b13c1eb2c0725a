"""Shortcut forcing: noise levels on a grid, the flow and bootstrap losses, and the signal level of context.

tau runs from 0 (noise) to 1 (clean); d is a step size; both live on the grid of K_max = `finest_steps`. A sequence
is trained either as flow (d = d_min) or, with probability `boot_fraction`, as bootstrap (d > d_min): its target is the
average velocity of two half-steps of the model itself. A batch's bootstrap sequences come first in it, and their number
is fixed in advance (the share of the batch, rounded so that it is exact in the long run): shapes stay static, and
half-steps run on a slice.
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
from fastdreamer.system.ranges import span

Predict = Callable[[Tensor, Tensor, Tensor, slice], Tensor]
"""(noisy, signal index, step-size index, rows) -> clean latents, for the given rows of the batch."""


@dataclass(frozen=True)
class Levels:
    """Noise levels of a batch: indices on the grid, tau = signal / K_max and d = 2^step_size / K_max.

    Attributes:
        signal: and `step_size`: (b, l).
        boots: how many sequences, the first ones, are bootstrap.
    """

    signal: Int[Tensor, "b l"]
    step_size: Int[Tensor, "b l"]
    boots: int

    @property
    def is_boot(self) -> Bool[Tensor, " b"]:
        """The bootstrap sequences as a mask."""
        return torch.arange(len(self.signal), device=self.signal.device) < self.boots


def draw_levels(batch: int, steps: int, finest: int, boots: int, generator: torch.Generator) -> Levels:
    """d ~ the powers of two above d_min for bootstrap sequences, tau ~ U{0, d, .., 1-d}, a step at a time.

    Drawn on the generator's device, without a host sync.
    """
    device = generator.device
    exponent = torch.zeros(batch, steps, dtype=torch.int64, device=device)
    exponent[:boots].random_(1, finest.bit_length(), generator=generator)
    size = 2**exponent
    uniform = torch.rand(batch, steps, generator=generator, device=device)
    return Levels((uniform * (finest // size)).long() * size, exponent, boots)


def draw_sampled_levels(batch: int, steps: int, forcing: ForcingConfig, generator: torch.Generator) -> Levels:
    """Levels that imagination uses: the context's for a share of the steps, else one of the K it samples through."""
    device, stride = generator.device, forcing.finest_steps // forcing.sample_steps
    is_context = torch.rand(batch, steps, generator=generator, device=device) < forcing.context_share
    sampled = torch.empty(batch, steps, dtype=torch.int64, device=device)
    sampled.random_(0, forcing.sample_steps, generator=generator).mul_(stride)
    signal = torch.where(is_context, context_index(forcing), sampled)
    return Levels(signal, torch.zeros_like(signal), 0)


def context_index(forcing: ForcingConfig) -> int:
    """Index of the context's signal level: `context_signal` snapped to the grid, below clean (0.9 -> 58 of 64)."""
    return min(round(forcing.context_signal * forcing.finest_steps), forcing.finest_steps - 1)


def mix(clean: Tensor, noise: Tensor, tau: Tensor | float) -> Tensor:
    """(1 - tau) noise + tau clean; a tensor tau is broadcast over the trailing axes."""
    return torch.lerp(noise, clean, tau)


def ramp(tau: Tensor) -> Tensor:
    """Loss weight 0.9 tau + 0.1 (P Eq. 8)."""
    return 0.9 * tau + 0.1


def loss_shares(levels: Levels, finest: int, valid: Bool[Tensor, "b l"], has_ramp: bool = True) -> Float[Tensor, "b l"]:
    """What each step counts for in the mean over valid steps of the loss, weighed by the ramp or alike."""
    weight = ramp(levels.signal / finest) if has_ramp else 1.0
    return weight * valid / valid.sum().clamp(min=1)


def boot_target(predict: Predict, noisy: Tensor, levels: Levels, finest: int) -> Tensor:
    """What the bootstrap predictions should be: noisy + (1 - tau) * mean velocity of two half-steps (no gradient)."""
    rows = slice(0, levels.boots)
    with torch.no_grad():
        noisy, signal, half = noisy[rows], levels.signal[rows], levels.step_size[rows] - 1
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
    shares: Float[Tensor, "b l"],
) -> dict[str, Tensor]:
    """Losses, summed over steps each times its share: `dynamics` trains, `flow` and `boot` are its parts, to watch.

    Half-steps run on bootstrap rows only, without gradient; velocities are fp32. The bootstrap loss is P's in the
    form that needs no division in the gradient: ||z^ - [z~ + (1-tau) sg(b1 + b2)/2]||^2.
    """
    noisy = mix(clean, noise, (levels.signal / finest)[..., None, None])
    prediction = predict(noisy, levels.signal, levels.step_size, slice(0, len(clean))).float()
    target = clean
    if levels.boots:
        with span("half steps"):
            target = torch.cat([boot_target(predict, noisy, levels, finest), clean[levels.boots :]])
    error = (prediction - target).square().mean((-2, -1)) * shares
    boot, flow = error[: levels.boots].sum(), error[levels.boots :].sum()
    return {"dynamics": boot + flow, "flow": flow.detach(), "boot": boot.detach()}
