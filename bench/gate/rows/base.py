"""A row of the gate: what is checked, counted and timed of one operation, and what it is compared with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

from bench.count import counts_of
from bench.timing import Arm
from fastdreamer.config import Config, load_config
from fastdreamer.device import Backend

SMALL = (
    "precision=fp32", "compile=off", "seed=0", "data.env=crafter", "data.resampler=torch", "data.decoder=pyav",
    "dynamics={dim: 32, layers: 2, heads: 2, kv_heads: 1, time_every: 2, registers: 2, window: 5, context: 5}",
    "forcing={finest_steps: 8, sample_steps: 4, boot_fraction: 0.25}",
    "heads={hidden: 32, layers: 1, bins: 41, reward_range: 3.0, value_range: 4.0}",
    "imagination={horizon: 3, start_context: 1, critic_steps: 0}",
    *(f"phase{n}={{steps: 1000, batch_size: 4, optimizer: adamw, warmup_steps: 4}}" for n in (1, 2, 3)),
)  # fmt: skip
"""Laid over the debug preset: rows must not change because a preset does."""


class Wrong(Exception):
    """The operation gives another result than its reference; the message says by how much."""


@dataclass(frozen=True)
class Place:
    """The place of a row: its device, and a folder of its own that is deleted after it."""

    device: torch.device
    folder: Path

    @property
    def backend(self) -> Backend:
        """The eager backend in fp32."""
        return Backend(self.device, "fp32")

    def config(self, *overrides: str) -> Config:
        """The small configuration."""
        return load_config("debug", [f"device={self.device.type}", *SMALL, *overrides])


@dataclass(frozen=True)
class RowWork:
    """The work of a row, built and ready to run.

    Attributes:
        check: compares the operation with its reference; raises Wrong.
        counts: whole numbers by name, the same on every run and machine.
        ours: and `reference`, where the row is timed: the operation, and plain code for the same work.
        items: the items that one call of `ours` does, and their `unit`, for the rate.
    """

    check: Callable[[], None]
    counts: Callable[[], dict[str, int]]
    ours: Arm | None = None
    reference: Arm | None = None
    items: int = 1
    unit: str = "calls"

    @classmethod
    def of_calls(
        cls,
        place: Place,
        check: Callable[[], None],
        ours: Callable[[], object],
        plain: Callable[[], object],
        items: int = 1,
        unit: str = "calls",
        counts: Callable[[], dict[str, int]] | None = None,
    ) -> RowWork:
        """The work of a row that times `ours` beside `plain` and counts, unless told, what one call of it does."""
        arms = Arm(lambda _: ours()), Arm(lambda _: plain())
        return cls(check, counts or (lambda: counts_of(ours, place.device)), *arms, items, unit)


@dataclass(frozen=True)
class GateRow:
    """A row of the gate by its name.

    Attributes:
        build: makes it, at a place.
        needs: libraries without which it is left out.
        devices: the devices it runs on.
        is_short: part of what continuous integration runs; others run with --full.
        excuse: any other reason to leave it out here, "" for none.
        is_steady: whether its ratio is the same in every process; else it is printed alone, and NOTES.md says by what.
        expected: its counts, where another file than the gate's says what is expected; None if that has none.
    """

    name: str
    build: Callable[[Place], RowWork]
    needs: tuple[str, ...] = ()
    devices: tuple[str, ...] = ("cpu", "cuda")
    is_short: bool = True
    is_steady: bool = True
    excuse: Callable[[], str] = lambda: ""
    expected: Callable[[], dict[str, int] | None] | None = None

    def left_out(self, device: str) -> str:
        """Why the row is not for this machine, or ""."""
        if device not in self.devices:
            return f"not for {device}"
        missing = [n for n in self.needs if find_spec(n.partition(".")[0]) is None or find_spec(n) is None]
        return f"needs {missing[0]}" if missing else self.excuse()


def close(name: str, ours: Tensor, reference: Tensor, most: float) -> None:
    """Compares two tensors; Wrong if a difference is above `most`, or is no number."""
    if ours.shape != reference.shape:
        raise Wrong(f"{name} has shape {tuple(ours.shape)}, the reference {tuple(reference.shape)}")
    apart = float((ours.double() - reference.double()).abs().max()) if ours.numel() else 0.0
    if not apart <= most:
        raise Wrong(f"{name} is off by {apart:.3g}, at most {most:g}")


def nothing() -> None:
    """No reference: the row has counts alone."""
