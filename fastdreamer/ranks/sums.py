"""Adding up over the ranks: gradients in flat buckets, with the figures of the step behind the last of them."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from fastdreamer.ranks.membership import Figures

BUCKET_BYTES = 32 * 2**20


class Sums:
    """Adds up, over one buffer that is made once, so that memory does not run out half-way through a step.

    Attributes:
        calls, bytes: the calls of collectives so far, and what was given to them.
        bad: 1 for each rank whose own gradients were not finite in the newest step (world,).
    """

    def __init__(self, rank: int, world: int, device: torch.device) -> None:
        self.rank, self.world = rank, world
        self.calls = self.bytes = 0
        self.buffer = torch.zeros(BUCKET_BYTES // 4, device=device)
        self.bad = torch.zeros(world, device=device)

    def add_up(self, gradients: list[Tensor], batches: Figures) -> Figures:
        """Replaces every gradient by its sum; returns the figures' sums, in float32.

        Where a bucket's own sum is not finite, the rank says so in a place of its own beside the figures.
        """
        names = [sorted(figures) for figures in batches]
        figures = [figures[name].detach().float() for figures, own in zip(batches, names, strict=True) for name in own]
        riders = torch.cat([torch.stack(figures), self.bad.new_zeros(self.world)])
        pieces = [*_cut([x.view(-1) for x in gradients], self.buffer.numel() - len(riders)), riders]
        buckets, total = _fill(pieces, self.buffer.numel()), torch.zeros((), device=self.bad.device)
        for bucket in buckets:
            size = sum(map(len, bucket))
            flat = torch.cat(bucket, out=self.buffer[:size]) if size else self.buffer[:0]
            total = total + flat.sum()
            if bucket is buckets[-1]:
                flat[size - self.world + self.rank] = (total - total).ne(0)  # inf - inf and nan - nan are nan
            self._sum(flat)
            torch._foreach_copy_(bucket, flat.split([len(piece) for piece in bucket]))
        self.bad = riders[len(figures) :].clone()
        sums = iter(riders[: len(figures)].unbind())
        return [{name: next(sums) for name in own} for own in names]

    def gather(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """The rows of all ranks, in order; of every rank as many."""
        own = torch.stack([x.float() for x in tensors], -1)
        parts = [torch.empty_like(own) for _ in range(self.world)]
        dist.all_gather(parts, own)
        self.count(own)
        return torch.cat(parts).unbind(-1)

    def not_finite(self) -> list[int]:
        """The ranks in `bad`; waits for the device."""
        return [rank for rank, value in enumerate(self.bad.tolist()) if value]

    def count(self, sent: Tensor) -> None:
        """Counts a call of a collective that was given `sent`."""
        self.calls, self.bytes = self.calls + 1, self.bytes + sent.numel() * sent.element_size()

    def _sum(self, flat: Tensor) -> None:
        dist.all_reduce(flat)
        self.count(flat)


def _cut(pieces: list[Tensor], most: int) -> list[Tensor]:
    """Pieces in order, those that are too long in several parts."""
    return [part for piece in pieces for part in piece.split(most)]


def _fill(pieces: list[Tensor], room: int) -> list[list[Tensor]]:
    """Pieces in order, in as few buckets as hold them one after another."""
    buckets: list[list[Tensor]] = [[]]
    for piece in pieces:
        if sum(map(len, buckets[-1])) + len(piece) > room:
            buckets.append([])
        buckets[-1].append(piece)
    return buckets
