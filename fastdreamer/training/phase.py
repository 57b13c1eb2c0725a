"""What a phase gives the training loop: a batch with all its randomness, and the loss of any micro-batch of it.

A loss is a sum over rows, each times its share of the whole batch, so the micro-batches' gradients add up to the
batch's, and a step that does not fit the memory can go through in micro-batches without changing what is learned.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from types import MappingProxyType
from typing import Any, Generic, Protocol, TypeVar

from torch import Tensor, nn

from fastdreamer.latents.loader import Loader
from fastdreamer.training.optim import RunningScale


class Stateful(Protocol):
    """A torch.Generator, or anything else whose state is a tensor."""

    def get_state(self) -> Tensor: ...
    def set_state(self, state: Tensor, /) -> Any: ...


S = TypeVar("S")


@dataclass(frozen=True)
class PhaseBatch:
    """A batch, ready for its loss; the first of its tensors has the batch's rows."""

    def split(self: S, micro_batches: int) -> Sequence[S]:
        """Split the batch into at most `micro_batches` of about equal size, rows in order; one is the batch itself."""
        rows = _rows(self)
        return [rows_of(self, *ends, rows) for ends in bounds(rows, micro_batches)] if micro_batches > 1 else [self]


W = TypeVar("W", bound=PhaseBatch)


class Phase(ABC, Generic[W]):
    """One of the three phases, or the pixel decoder."""

    number: int
    model: nn.Module
    """Everything that trains (and its buffers): saved, averaged, optimised."""
    frozen: Mapping[str, nn.Module]
    """What it was built on: saved beside the model, never changed."""
    generators: Mapping[str, Stateful]
    """All randomness of the phase, and the data position."""
    loader: Loader | None = None
    """The source of its batches, if it has to wait for them; the loop closes it."""
    rates: Mapping[str, float] = MappingProxyType({})
    """Factors of the learning rate, by the beginning of a parameter's name in `model`."""
    patience: float = 0.0
    """Share of its steps without a better `held_out_loss` after which it ends, with the best averages; 0: never."""
    draws_own_rows = False
    """Whether `draw` returns the rank's own rows alone, where several train together."""
    transformer: nn.Module | None = None
    """What of `model` ranks may shard, a block at a time; None where each holds all."""
    scale: RunningScale | None = None
    """Divides the terms of its loss, if there are several or their size drifts."""

    @abstractmethod
    def draw(self) -> W:
        """The next batch with all that is random about it, and what its rows count for. Nothing has a gradient."""

    @abstractmethod
    def loss(self, work: W, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a batch or a micro-batch, and detached figures, which add up over the micro-batches.

        Of the figures, those named after the scale's terms (`loss/NAME`) are the unscaled losses.
        """

    def figures(self, sums: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        """Figures to log, from the sums of the micro-batches' figures; runs on logging steps alone."""
        return sums

    def held_out_loss(self) -> float | None:
        """One figure of the model as it is on play that it does not learn from, smaller is better; None without any."""
        return None

    def shrink(self, micro_batches: int) -> None:
        """React to memory that ran out: `draw` should hold at once what one of `micro_batches` micro-batches holds."""

    def finish(self, sums: Mapping[str, Tensor], skipped: Tensor | None = None) -> None:
        """Finish a batch after its backward pass: the running scale takes its losses in, but for a skipped step's."""
        if self.scale is not None:
            self.scale.update({name: sums[f"loss/{name}"] for name in self.scale.names}, skipped)


def rows_of(work: Any, first: int, last: int, rows: int) -> Any:
    """Rows first..last-1 of every tensor with `rows` rows in a dataclass, nested ones included."""
    changed: dict[str, Any] = {}
    for field in fields(work):
        value = getattr(work, field.name)
        if isinstance(value, Tensor) and value.ndim and len(value) == rows:
            changed[field.name] = value[first:last]
        elif hasattr(value, "__dataclass_fields__"):
            changed[field.name] = rows_of(value, first, last, rows)
    return replace(work, **changed)


def _rows(work: Any) -> int:
    first = getattr(work, fields(work)[0].name)
    return len(first) if isinstance(first, Tensor) else _rows(first)


def bounds(rows: int, micro_batches: int) -> list[tuple[int, int]]:
    """First and last row (exclusive) of micro-batches whose sizes differ by at most one; none is empty."""
    micro_batches = max(1, min(micro_batches, rows))
    return [(rows * i // micro_batches, rows * (i + 1) // micro_batches) for i in range(micro_batches)]
