"""The gradient of a step, in as many pieces as the memory needs."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from fastdreamer.config import TrainConfig
from fastdreamer.device import Backend
from fastdreamer.errors import UserError
from fastdreamer.system.advice import command
from fastdreamer.system.ranges import span
from fastdreamer.training.phase import Phase


class Pieces:
    """Runs a phase's batches forward and backward; where memory runs out, once, in pieces of half the size.

    The pieces' gradients add up to the whole batch's, so nothing is learned differently.

    Attributes:
        pieces: in how many a batch goes through now.
        is_halved: whether memory ran out.
    """

    def __init__(self, phase: Phase[Any], train: TrainConfig, backend: Backend) -> None:
        self.phase, self.train, self.backend = phase, train, backend
        self.pieces = -(-train.batch_size // (train.micro_batch or train.batch_size))
        self.is_halved = False

    def gradients(self, step: int) -> list[dict[str, Tensor]]:
        """Adds the gradient of step `step` to the parameters; returns each batch's figures, and `loss` in them.

        Where it fails, all randomness is put back to where the step began.

        Raises:
            UserError: if memory runs out with halved pieces too.
        """
        before = {name: generator.get_state() for name, generator in self.phase.generators.items()}
        random = torch.get_rng_state()
        try:
            return self._gradients(step)
        except torch.OutOfMemoryError as error:
            reason = str(error).partition("\n")[0]
        except Exception:
            self._rewind(before, random)
            raise
        # Outside the handler: the exception's frames held the tensors of the step.
        self._rewind(before, random)
        name = f"phase{self.phase.number}"
        if self.is_halved or self.pieces >= self.train.batch_size:
            raise UserError(
                f"{name}: out of memory at step {step + 1} with {self.pieces} pieces a batch ({reason}): lower "
                f"{name}.batch_size or set {name}.recompute=true; what fits is said by: {command('plan')}"
            )
        self.is_halved = True
        self.pieces = min(2 * self.pieces, self.train.batch_size)
        print(
            f"{name}: out of memory at step {step + 1}; going on with {self.pieces} pieces a batch (the same gradient)",
            file=sys.stderr,
            flush=True,
        )
        self.phase.shrink(self.pieces)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return self.gradients(step)

    def _rewind(self, before: Mapping[str, Tensor], random: Tensor) -> None:
        for parameter in self.phase.model.parameters():
            parameter.grad = None
        for name, generator in self.phase.generators.items():
            generator.set_state(before[name])
        torch.set_rng_state(random)

    def _gradients(self, step: int) -> list[dict[str, Tensor]]:
        batches: list[dict[str, Tensor]] = []
        for _ in range(self.train.accumulate):
            with span("draw"):
                work = self.phase.draw()
            sums: dict[str, Tensor] = {}
            for piece in work.split(self.pieces):
                with span("forward"), self.backend.autocast():
                    loss, figures = self.phase.loss(piece, step)
                with span("backward"):
                    (loss / self.train.accumulate).backward()
                for name, value in (figures | {"loss": loss.detach()}).items():
                    sums[name] = sums[name] + value if name in sums else value
            batches.append(sums)
        return batches
