"""Plain PyTorch: the meaning of every operation in this package. Needs torch alone.

Letters: b batch, z channels, l latent steps, h, w height and width, n tokens = (h/p)(w/p), r rows, bins two-hot bins.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F


def latent_pool(latents: Float[Tensor, "b z l h w"], pool: int) -> Float[Tensor, "b l n z"]:
    """Mean over pool x pool blocks, accumulated in fp32; tokens row-major over the pooled grid.

    Raises:
        ValueError: if height or width is not a multiple of `pool`.

    Source: the plan's "Spatial Pooling (avg_pool 8x8)": (B,16,L,32,32) -> (B,L,16,16) at pool 8.
    """
    height, width = latents.shape[-2:]
    if pool < 1 or height % pool or width % pool:
        raise ValueError(f"latents of {height}x{width} do not divide into {pool}x{pool} blocks")
    blocks = latents.unflatten(-1, (width // pool, pool)).unflatten(-3, (height // pool, pool))
    return blocks.float().mean(dim=(-3, -1)).to(latents.dtype).permute(0, 2, 3, 4, 1).flatten(2, 3)


def symlog(x: Tensor) -> Tensor:
    """sign(x) ln(1 + |x|)."""
    return torch.sign(x) * torch.log1p(torch.abs(x))


@lru_cache(maxsize=32)
def symexp_bins(bins: int, limit: float, device: torch.device | str = "cpu") -> Float[Tensor, " bins"]:
    """Bin centres symexp(linspace(-limit, 0)) and their mirror image, so that the middle bin is exactly 0.

    Source: DreamerV3, arXiv:2301.04104, Eq. 9; mirrored so that the centres are exactly symmetric.
    """
    if bins < 3 or bins % 2 == 0:
        raise ValueError(f"bins is {bins}; it must be odd and at least 3, so that one centre is 0")
    negative = -torch.expm1(torch.linspace(limit, 0.0, bins // 2 + 1, dtype=torch.float64))
    centres = torch.cat([negative, -negative[:-1].flip(0)])
    return centres.to(torch.float32).to(device)


def two_hot_encode(targets: Float[Tensor, "*r"], bins: int, limit: float) -> Float[Tensor, "*r bins"]:
    """Probabilities on the two neighbouring centres whose mean is the target (clipped to the range), in raw space."""
    centres = symexp_bins(bins, limit, targets.device)
    clipped = targets.float().clamp(centres[0], centres[-1])
    upper = torch.searchsorted(centres, clipped, right=True).clamp(1, bins - 1)
    low, high = centres[upper - 1], centres[upper]
    share = (clipped - low) / (high - low)
    encoded = torch.zeros(*targets.shape, bins, device=targets.device)
    encoded.scatter_(-1, (upper - 1).unsqueeze(-1), (1 - share).unsqueeze(-1))
    return encoded.scatter_(-1, upper.unsqueeze(-1), share.unsqueeze(-1))


def two_hot_loss(
    logits: Float[Tensor, "*r bins"], targets: Float[Tensor, "*r"], limit: float, weights: Tensor | None = None
) -> Float[Tensor, "*r"]:
    """Cross-entropy between the logits and the two-hot target, a value a row (times its weight), in fp32.

    Source: DreamerV3, arXiv:2301.04104, Eq. 10. Interpolation is in raw space: interpolating between symlog values
    is biased (+5.7 % at a target of 0.05).
    """
    encoded = two_hot_encode(targets, logits.shape[-1], limit)
    loss = -(encoded * F.log_softmax(logits.float(), -1)).sum(-1)
    return loss if weights is None else loss * weights


def two_hot_decode(logits: Float[Tensor, "*r bins"], limit: float) -> Float[Tensor, "*r"]:
    """The expectation under the predicted bins, summed in mirrored pairs so that equal logits give exactly 0."""
    bins = logits.shape[-1]
    centres = symexp_bins(bins, limit, logits.device)
    probabilities = torch.softmax(logits.float(), -1)
    positive = probabilities[..., bins // 2 + 1 :]
    negative = probabilities[..., : bins // 2].flip(-1)
    return ((positive - negative) * centres[bins // 2 + 1 :]).sum(-1)
