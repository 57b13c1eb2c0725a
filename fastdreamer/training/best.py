"""Early stopping: the averages of the step with the least held-out loss, and when to stop looking for better ones."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from fastdreamer.ranks.membership import ALONE, Ranks
from fastdreamer.training.optim import EMA
from fastdreamer.training.phase import Phase

LOOKS = 20
"""How often a phase of any length looks."""


class Best:
    """Keeps the best averages of a phase that holds play out, and counts how long none was better.

    Attributes:
        patience: the share of a phase's steps that may find nothing better; 0 keeps nothing and never ends.
        state: the averages that were kept, in host memory; empty before the first look.
    """

    def __init__(self, phase: Phase[Any], ema: EMA, patience: float, steps: int, ranks: Ranks = ALONE) -> None:
        self.phase, self.ema, self.patience, self.steps, self.ranks = phase, ema, patience, steps, ranks
        self.state: dict[str, Tensor] = {}
        self.loss, self.step, self.waited = math.inf, 0, 0

    @property
    def is_over(self) -> bool:
        """Whether the phase has learned what it will."""
        return bool(self.patience) and self.waited >= self.patience * LOOKS

    def looks(self, step: int) -> bool:
        """Whether it looks after `step` steps."""
        return bool(self.patience) and (step % max(1, self.steps // LOOKS) == 0 or step == self.steps)

    def see(self, step: int) -> bool:
        """Looks at the averages after `step` steps; whether they are the best so far.

        Of several ranks the main one looks, and alone keeps the averages; the others count with it.
        """
        is_best = self._look(step) if self.ranks.is_main else False
        known = [self.loss, self.step, self.waited] if self.state else []
        if known := self.ranks.from_main(f"best of phase {self.phase.number} at {step}", known):
            self.loss, self.step, self.waited = float(known[0]), int(known[1]), int(known[2])
        return is_best

    def _look(self, step: int) -> bool:
        own = {name: value.clone() for name, value in self.phase.model.state_dict().items()}
        self.phase.model.load_state_dict(self.ema.state)
        try:
            loss = self.phase.held_out_loss()
        finally:
            self.phase.model.load_state_dict(own)
        if loss is None:
            return False
        is_best = loss < self.loss
        if is_best:
            self.loss, self.step, self.waited = loss, step, 0
            self.state = {name: value.to("cpu", copy=True) for name, value in self.ema.state.items()}
        elif self.state:  # before a loss that is a number there is nothing to wait for
            self.waited += 1
        return is_best

    def figures(self) -> dict[str, float]:
        """The figures that are logged."""
        return {"best_step": float(self.step)} if self.state else {}

    def note(self) -> dict[str, Any]:
        """The state for a checkpoint's JSON."""
        return {"best": [self.loss, self.step, self.waited]} if self.state else {}

    def restore(self, tensors: dict[str, dict[str, Tensor]], note: dict[str, Any]) -> None:
        """Goes on from a checkpoint's groups of tensors and its JSON."""
        if "best" in note:
            loss, step, waited = note["best"]
            self.loss, self.step, self.waited = float(loss), int(step), int(waited)
            self.state = tensors["best"]
