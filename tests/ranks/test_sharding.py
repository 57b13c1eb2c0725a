"""Parts of tensors: every row is one rank's, and all parts together are the whole again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor
from torch.distributed.tensor.placement_types import Shard

from fastdreamer.ranks.sharding import WHOLE, Shards


class Pretend:
    """One of several ranks, to which the others send the parts of a tensor that is known."""

    def __init__(self, rank: int, world: int, whole: Tensor | None = None, dim: int = 0) -> None:
        self.rank, self.world, self.tensor, self.dim = rank, world, whole, dim
        self.sent = 0

    @contextmanager
    def waiting(self, sent: Tensor | None = None) -> Iterator[None]:
        yield

    def empty(self, size: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
        return torch.empty(*size, dtype=dtype, device=device)

    def total(self, parts: Tensor) -> Tensor:
        return parts * self.world

    def gather_into(self, out: Tensor, part: Tensor) -> None:
        assert self.tensor is not None
        self.sent += part.numel()
        for rank, place in enumerate(out.split(len(part))):
            theirs = Shards(None, Pretend(rank, self.world)).own(self.tensor, self.dim).movedim(self.dim, 0)
            assert rank != self.rank or torch.equal(part[: len(theirs)], theirs)
            place[: len(theirs)] = theirs


@pytest.mark.parametrize("dim", [0, 1])
@pytest.mark.parametrize(("rows", "world"), [(8, 2), (7, 2), (6, 4), (1, 3), (5, 8)])
def test_parts_are_the_whole_again(rows: int, world: int, dim: int) -> None:
    whole = torch.randn(3, rows, 2) if dim else torch.randn(rows, 3)
    parts = []
    for rank in range(world):
        group = Pretend(rank, world, whole, dim)
        shards = Shards(None, group)
        parts.append(shards.own(whole, dim))
        assert torch.equal(shards.whole(parts[-1], rows, dim), whole)
        assert group.sent == -(-rows // world) * whole.numel() // rows
    assert torch.equal(torch.cat(parts, dim), whole)
    theirs, _ = Shard(dim)._split_tensor(whole, world, with_padding=False)
    assert all(torch.equal(a, b) for a, b in zip(parts, theirs, strict=True) if b.numel())  # FSDP2's own rows


def test_nothing_is_a_part_of_a_model_that_every_rank_holds() -> None:
    model = torch.nn.Linear(2, 3)
    assert not WHOLE and dict(WHOLE.named(model)) == dict(model.named_parameters())
    assert WHOLE.rows_of(model.weight) == 0
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 2.0)
    assert float(WHOLE.norm(model.parameters())) == pytest.approx(6.0)
