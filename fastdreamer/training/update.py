"""One update of a phase: the gradient of a step, clipped; the optimisers; the running scale; the average."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from fastdreamer.config import TrainConfig
from fastdreamer.device import Backend
from fastdreamer.system.ranges import span
from fastdreamer.training.optim import Average, build_optimizers, learning_rate
from fastdreamer.training.phase import Phase
from fastdreamer.training.pieces import Pieces
from fastdreamer.training.skips import Skips


class Update:
    """Everything that a step of the loop holds and does on the device; a memory plan runs it on fake tensors.

    Attributes:
        is_whole: off while a step is being taken in. Where a step fails before, all is as it was after the last one.
    """

    def __init__(self, phase: Phase[Any], train: TrainConfig, backend: Backend) -> None:
        self.phase, self.train = phase, train
        self.parameters = [p for p in phase.model.parameters() if p.requires_grad]
        self.optimizers = build_optimizers(phase.model.named_parameters(), train, phase.rates)
        self.average = Average(phase.model, train.ema_decay)
        self.pieces = Pieces(phase, train, backend)
        self.skips = Skips(backend.device)
        self.is_whole = True
        for optimizer in self.optimizers:
            optimizer.found_inf = self.skips.found  # type: ignore[attr-defined]

    def __call__(self, step: int) -> tuple[dict[str, Tensor], Tensor]:
        """Update number `step`: the figures of its last batch, and the gradient's norm before it was clipped.

        Where the loss or the norm is not finite, all stays as it was (see `Skips`).
        """
        batches = self.pieces.gradients(step)
        return batches[-1], self.apply(step, batches)

    def apply(self, step: int, batches: Sequence[Mapping[str, Tensor]] = ()) -> Tensor:
        """Takes the gradients in, and of `batches` the losses; returns the gradients' norm before they were clipped."""
        self.is_whole = False
        rate = learning_rate(self.train, step)
        for group in (group for optimizer in self.optimizers for group in optimizer.param_groups):
            group["lr"] = rate * group.get("rate", 1.0)
        with span("clip"):
            norm = nn.utils.clip_grad_norm_(self.parameters, self.train.clip_norm)
            skipped = self.skips.judge(norm, [figures["loss"] for figures in batches])
        with span("optimizer"):
            for optimizer in self.optimizers:
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            for figures in batches:
                self.phase.finish(figures, skipped)
        with span("average"):
            self.average.update(self.phase.model, step)
        self.is_whole = True
        return norm
