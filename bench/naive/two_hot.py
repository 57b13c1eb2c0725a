"""Two-hot cross-entropy and expectation as a handful of PyTorch calls, bins by binary search.

Source: DreamerV3 (arXiv:2301.04104), Eq. 9-10, with interpolation in raw space as in `fastdreamer_kernels`.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def two_hot_target(targets: Float[Tensor, "*b"], centres: Float[Tensor, " bins"]) -> Float[Tensor, "*b bins"]:
    """Probabilities on the two centres around each target, whose mean is the target; clipped to the range."""
    clipped = targets.float().clamp(centres[0], centres[-1])
    below = (torch.searchsorted(centres, clipped, right=True) - 1).clamp(0, len(centres) - 2)
    share = (clipped - centres[below]) / (centres[below + 1] - centres[below])
    target = torch.zeros(*targets.shape, len(centres), device=targets.device)
    target.scatter_(-1, below[..., None], (1 - share)[..., None])
    return target.scatter_(-1, below[..., None] + 1, share[..., None])


def two_hot_loss(
    logits: Float[Tensor, "*b cols"], targets: Float[Tensor, "*b"], centres: Float[Tensor, " bins"]
) -> Float[Tensor, "*b"]:
    """Cross-entropy of each row; columns past the bins are padding."""
    log_p = torch.log_softmax(logits[..., : len(centres)].float(), -1)
    return -(two_hot_target(targets, centres) * log_p).sum(-1)


def two_hot_decode(logits: Float[Tensor, "*b cols"], centres: Float[Tensor, " bins"]) -> Float[Tensor, "*b"]:
    """The expected scalar, in mirrored pairs: bins of +-5e8 would drown a plain sum in rounding."""
    p = torch.softmax(logits[..., : len(centres)].float(), -1)
    return 0.5 * ((p - p.flip(-1)) * centres).sum(-1)
