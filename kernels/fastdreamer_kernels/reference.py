"""Plain PyTorch: the meaning of every operation in this package. Needs torch alone.

Letters: b batch, z channels, l latent steps, h, w height and width, n tokens = (h/p)(w/p), r rows, bins two-hot bins,
cols columns of the logits: bins, or bins padded to a multiple of 8 for aligned rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Float


def latent_pool(
    latents: Float[Tensor, "b z l h w"],
    pool: int,
    scale: Float[Tensor, "l z"] | None = None,
    shift: Float[Tensor, "l z"] | None = None,
    out_dtype: torch.dtype | None = None,
) -> Float[Tensor, "b l n z"]:
    """Mean over pool x pool blocks, accumulated in fp32, then scale * mean + shift by (step, channel).

    Source: the plan's "Spatial Pooling (avg_pool 8x8)": (B,16,L,32,32) -> (B,L,16,16) at pool 8.
    """
    height, width = latents.shape[-2:]
    blocks = latents.unflatten(-1, (width // pool, pool)).unflatten(-3, (height // pool, pool))
    accurate = torch.promote_types(latents.dtype, torch.float32)
    pooled = blocks.to(accurate).mean(dim=(-3, -1)).permute(0, 2, 3, 4, 1).flatten(2, 3)
    if scale is not None and shift is not None:
        pooled = pooled * scale[:, None] + shift[:, None]
    return pooled.to(out_dtype or latents.dtype)


def latent_pool_backward(
    gradient: Float[Tensor, "b l n z"], pool: int, scale: Float[Tensor, "l z"] | None, height: int, width: int
) -> Float[Tensor, "b z l h w"]:
    """The gradient of `latent_pool` with respect to the latents, in the gradient's type."""
    accurate = gradient.to(torch.promote_types(gradient.dtype, torch.float32)) / pool**2
    if scale is not None:
        accurate = accurate * scale[:, None]
    grid = accurate.permute(0, 3, 1, 2).unflatten(-1, (height // pool, width // pool))
    return grid.repeat_interleave(pool, -2).repeat_interleave(pool, -1).to(gradient.dtype)


def symlog(x: Tensor) -> Tensor:
    """sign(x) ln(1 + |x|) of each element."""
    return torch.sign(x) * torch.log1p(torch.abs(x))


def symexp_bins(bins: int, limit: float, device: torch.device | str = "cpu") -> Float[Tensor, " bins"]:
    """Bin centres symexp(linspace(-limit, 0)) and their mirror image, so that the middle bin is exactly 0.

    Raises:
        ValueError: if `bins` is even or below 3.

    Source: DreamerV3, arXiv:2301.04104, Eq. 9; mirrored so that the centres are exactly symmetric.
    """
    if bins < 3 or bins % 2 == 0:
        raise ValueError(f"bins is {bins}; it must be odd and at least 3, so that one centre is 0")
    negative = -torch.expm1(torch.linspace(limit, 0.0, bins // 2 + 1, dtype=torch.float64))
    centres = torch.cat([negative, -negative[:-1].flip(0)])
    return centres.to(torch.float32).to(device)


def two_hot_encode(targets: Float[Tensor, "*r"], centres: Float[Tensor, " bins"]) -> Float[Tensor, "*r bins"]:
    """Probabilities on the two neighbouring centres whose mean is the target (clipped to the range), in raw space.

    A NaN target gives a row of NaN.
    """
    accurate = torch.promote_types(targets.dtype, torch.float32)
    centres = centres.to(accurate)
    clipped = targets.to(accurate).clamp(centres[0], centres[-1]).unsqueeze(-1)
    step = centres.diff()
    one = centres.new_ones(1)
    rising = torch.cat([one.expand_as(clipped), (clipped - centres[:-1]) / step], -1)
    falling = torch.cat([(centres[1:] - clipped) / step, one.expand_as(clipped)], -1)
    return torch.minimum(rising, falling).clamp(min=0)


def two_hot_loss(
    logits: Float[Tensor, "*r cols"],
    targets: Float[Tensor, "*r"],
    centres: Float[Tensor, " bins"],
    weights: Float[Tensor, "*r"] | None = None,
) -> Float[Tensor, "*r"]:
    """Cross-entropy between the logits and the two-hot target, a value a row (times its weight), in fp32 or better.

    Source: DreamerV3, arXiv:2301.04104, Eq. 10. Interpolation is in raw space: interpolating between symlog values
    is biased (+5.7 % at a target of 0.05).
    """
    x = _bins_of(logits, centres)
    encoded = two_hot_encode(targets.to(x.dtype), centres)
    log_p = torch.log_softmax(x, -1)
    loss = -torch.where(encoded == 0, encoded, encoded * log_p).sum(-1)  # a bin at -inf counts only where it is meant
    return loss if weights is None else loss * weights


def two_hot_gradient(
    logits: Float[Tensor, "*r cols"],
    targets: Float[Tensor, "*r"],
    centres: Float[Tensor, " bins"],
    weights: Float[Tensor, "*r"] | None = None,
) -> Float[Tensor, "*r cols"]:
    """The gradient of the sum of `two_hot_loss` with respect to the logits, in their type; 0 in padded columns."""
    x = _bins_of(logits, centres)
    gradient = torch.softmax(x, -1) - two_hot_encode(targets.to(x.dtype), centres)
    if weights is not None:
        gradient = gradient * weights.to(x.dtype).unsqueeze(-1)
    return torch.nn.functional.pad(gradient, (0, logits.shape[-1] - len(centres))).to(logits.dtype)


def two_hot_decode(logits: Float[Tensor, "*r cols"], centres: Float[Tensor, " bins"]) -> Float[Tensor, "*r"]:
    """The expectation under the predicted bins, summed in mirrored pairs so that equal logits give exactly 0."""
    bins = len(centres)
    probabilities = torch.softmax(_bins_of(logits, centres), -1)
    positive = probabilities[..., bins // 2 + 1 :]
    negative = probabilities[..., : bins // 2].flip(-1)
    return ((positive - negative) * centres[bins // 2 + 1 :]).sum(-1)


def _bins_of(logits: Tensor, centres: Tensor) -> Tensor:
    """The logits without padding, in fp32 or better."""
    return logits[..., : len(centres)].to(torch.promote_types(logits.dtype, torch.float32))
