"""The one JSON that every benchmark ends in, and its table."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from fastdreamer.system.files import write_atomic
from fastdreamer.system.output import in_columns

SCHEMA = 1
NOT_OFFERED = "not offered: "
"""How the reason of a row begins that is measured to say why it is not used: an answer, not a failure."""


@dataclass(frozen=True)
class Measured:
    """One arm of one row; what could not be measured is 0.

    Attributes:
        row: and `arm`: what was measured.
        cache: "cold", "warm" (level-2 cache of a GPU) or "host".
        median_us: microseconds of one run.
        floor_bytes: the bytes that a run must move at least; `flops`: the FLOPs that it does.
        launches: launches of one run, where they were counted.
        copy_share: bandwidth on the floor's bytes over that of a copy measured in the same process.
        speedup: speed-up of this arm over the row's reference arm; `noise`: its relative standard error, where known.
        reason: one line, why it could not be measured or cannot be used.
    """

    row: str
    arm: str
    cache: str
    median_us: float = 0.0
    floor_bytes: int = 0
    flops: int = 0
    launches: int | None = None
    copy_share: float = 0.0
    speedup: float = 0.0
    noise: float = field(default=0.0, kw_only=True)
    reason: str = field(default="", kw_only=True)

    @property
    def gb_per_s(self) -> float:
        """The floor's bytes over the time; 0 where there is no time."""
        return self.floor_bytes / self.median_us / 1e3 if self.median_us else 0.0


def write(path: Path, machine: dict[str, Any], probes: dict[str, float], rows: Sequence[Measured]) -> None:
    """Writes the whole file or nothing."""
    entries = [asdict(row) | {"gb_per_s": row.gb_per_s} for row in rows]
    text = json.dumps({"schema": SCHEMA, "machine": machine, "probes": probes, "rows": entries}, indent=1)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, f"{text}\n".encode("ascii"))


def read(path: Path) -> dict[str, Any]:
    """Read the file's contents; ValueError if it is not of this schema."""
    contents: dict[str, Any] = json.loads(path.read_text(encoding="ascii"))
    if contents.get("schema") != SCHEMA or not {"machine", "probes", "rows"} <= contents.keys():
        raise ValueError(f"{path} is not of schema {SCHEMA}: measure it again")
    return contents


AnyRow = TypeVar("AnyRow", bound=Measured)


def table(rows: Sequence[AnyRow], columns: Mapping[str, Callable[[AnyRow], str]]) -> str:
    """The rows as text: the columns where there is a time, and reasons last."""
    cells = [["row", "arm", *columns, ""]]
    for row in rows:
        figures = [show(row) if row.median_us else "" for show in columns.values()]
        cells.append([row.row, row.arm, *figures, row.reason])
    return "\n".join(in_columns(cells, ["<", *">" * (1 + len(columns)), "<"]))


def at_least(name: str, value: float, least: float, error: float = 0.0) -> str:
    """A promise that `value` is at least `least`; its standard error is shown, and excuses nothing."""
    return f"{'holds' if value >= least else 'FAILS'}: {name} {_shown(value, error)}, at least {least:g}"


def at_most(name: str, value: float, most: float, error: float = 0.0) -> str:
    """A promise that `value` is at most `most`, within two standard errors of the measurement."""
    return f"{'holds' if value - 2 * error <= most else 'FAILS'}: {name} {_shown(value, error)}, at most {most:g}"


def _shown(value: float, error: float) -> str:
    return f"{value:.3g} +- {error:.2g}" if error else f"{value:.3g}"
