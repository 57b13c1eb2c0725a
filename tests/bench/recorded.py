"""Rows and recorded figures for the tests of the gate."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from bench.gate.expectations import Timed
from bench.gate.rows import GateRow, RowWork
from bench.timing import Arm


def timed(ratio: float, error: float = 0.02) -> Timed:
    return Timed(ratio, error, 40, 0.01, 100.0, "steps")


def row(name: str = "sum", **changes: Any) -> GateRow:
    work = RowWork(check=lambda: None, counts=lambda: {"launches": 1}, ours=Arm(lambda _: None), reference=Arm(len))
    work = replace(work, **{key: value for key, value in changes.items() if key in RowWork.__dataclass_fields__})
    rest = {key: value for key, value in changes.items() if key not in RowWork.__dataclass_fields__}
    return GateRow(name, lambda place: work, **rest)
