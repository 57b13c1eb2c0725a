"""One optimisation step: gradients, clipping, optimisers, moving average."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from fastdreamer.config import TrainConfig
from fastdreamer.device import Backend
from fastdreamer.ranges import span
from fastdreamer.training.optim import Average, build_optimizers, learning_rate
from fastdreamer.training.phase import Phase
from fastdreamer.training.pieces import Pieces


class Optimisation:
    """Takes a phase's optimisation steps.

    Attributes:
        optimizers: and `average`: their states are what a checkpoint holds.
    """

    def __init__(self, phase: Phase[Any], train: TrainConfig, backend: Backend) -> None:
        self.phase, self.train = phase, train
        self.parameters = [p for p in phase.model.parameters() if p.requires_grad]
        self.optimizers = build_optimizers(phase.model.named_parameters(), train)
        self.average = Average(phase.model, train.ema_decay)
        self.pieces = Pieces(phase, train, backend)

    def step(self, number: int) -> tuple[dict[str, Tensor], Tensor, float]:
        """Step `number` (0 is the first); returns the last batch's figures, the gradient's norm, the learning rate."""
        rate = learning_rate(self.train, number)
        for group in (group for optimizer in self.optimizers for group in optimizer.param_groups):
            group["lr"] = rate
        figures = self.pieces.gradients(number)
        with span("clip"):
            norm = nn.utils.clip_grad_norm_(self.parameters, self.train.clip_norm)
        with span("optimizer"):
            for optimizer in self.optimizers:
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
        with span("average"):
            self.average.update(self.phase.model, number)
        return figures, norm, rate
