"""Graphs of the compiled steps: how many, where they break, and whether any is made again. Traced, not compiled."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch._dynamo.utils import counters

from bench.gate.rows.base import GateRow, Place, Work, Wrong
from bench.phases import Optimisation, made_up_phase
from fastdreamer.device import Backend

STEPS = 4
"""The second may make graphs (gradients and optimisers' states are there then), later ones may not."""


class Tracing(Backend):
    """A backend whose functions are traced by Dynamo and run as they are; a break is counted, not an error."""

    def compiled(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Compile as Backend does, but for the compiler behind it."""
        return torch.compile(function, backend="eager", dynamic=False)


def graphs(number: int, place: Place) -> Work:
    """A phase's compiled functions over a few steps."""

    def step_of(backend: Backend) -> Optimisation:
        torch._dynamo.reset()
        config = place.config("dynamics.dim=16")
        return Optimisation(made_up_phase(config, number, backend), config.phase(number), backend)

    def check() -> None:
        one, other = (step_of(kind(place.device, "fp32", True)) for kind in (Tracing, Eager))
        for step in range(2):
            ours, plain = float(one.step()["loss"]), float(other.step()["loss"])
            if abs(ours - plain) > 1e-4 * max(1.0, abs(plain)):
                raise Wrong(f"the loss of step {step} is {ours:.6g}, eager {plain:.6g}")

    def counts() -> dict[str, int]:
        optimisation = step_of(Tracing(place.device, "fp32", True))
        counters.clear()
        made = []
        for _ in range(STEPS):
            optimisation.step()
            made.append(counters["stats"]["unique_graphs"])
        breaks = sum(counters["graph_break"].values())
        return {"graphs": made[-1], "graph_breaks": breaks, "recompiles": made[-1] - made[1]}

    return Work(check=check, counts=counts)


class Eager(Backend):
    """A backend that says it compiles, so that everything is built as for compiling, and does not."""

    def compiled(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function itself."""
        return function


ROWS = tuple(GateRow(f"phase {number} graphs", partial(graphs, number)) for number in (1, 2, 3))
