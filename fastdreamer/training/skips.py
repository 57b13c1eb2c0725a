"""Steps that are left out because their loss or gradient is not finite: found and counted where they are computed."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from jaxtyping import Bool, Float
from torch import Tensor


class Skips:
    """Judges every step on its device. The host learns of it only when it asks, so that no step waits.

    What a step changes (weights, moments, running scales) stays as it was where `found` is 1; the average of the
    weights moves on towards the unchanged ones.

    Attributes:
        found: 1 where the newest step is left out, else 0; float32 (), the `found_inf` of torch's fused optimisers.
        counts: steps left out in all, and of the newest steps in a row; float32 (2,), exact up to 16 million.
    """

    def __init__(self, device: torch.device) -> None:
        self.found = torch.zeros((), device=device)
        self.counts = torch.zeros(2, device=device)
        self._in_a_row = self.counts[1]

    def judge(self, norm: Float[Tensor, ""], losses: Iterable[Float[Tensor, ""]] = ()) -> Bool[Tensor, ""]:
        """Whether a step with this gradient norm and these losses is left out; counts it."""
        total = sum(losses, norm)
        is_bad = (total - total).ne(0)  # inf - inf and nan - nan are nan; half the launches of isfinite
        self.found.copy_(is_bad)
        self.counts.add_(self.found)
        self._in_a_row.mul_(self.found)
        return is_bad

    def read(self) -> tuple[int, int]:
        """In all, and in a row. Waits for the device."""
        total, in_a_row = self.counts.tolist()
        return int(total), int(in_a_row)

    def restore(self, total: int, in_a_row: int) -> None:
        """Goes on from what a checkpoint says."""
        self.counts.copy_(torch.tensor([total, in_a_row]))
