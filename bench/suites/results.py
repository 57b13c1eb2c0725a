"""The one JSON that every benchmark ends in, and its table."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fastdreamer.system.files import write_atomic

SCHEMA = 1
NOT_OFFERED = "not offered: "
"""How the reason of a row begins that is measured to say why it is not used: an answer, not a failure."""


@dataclass(frozen=True)
class Measured:
    """One arm of one row.

    Attributes:
        row: and `arm`: what was measured.
        cache: "cold", "warm" (level-2 cache of a GPU) or "host".
        median_us: microseconds of one run.
        floor_bytes: the bytes that a run must move at least; `flops`: the FLOPs that it does.
        launches: launches of one run, where they were counted.
        copy_share: bandwidth on the floor's bytes over that of a copy measured in the same process.
        speedup: speed-up of this arm over the row's reference arm.
    """

    row: str
    arm: str
    cache: str
    median_us: float
    floor_bytes: int
    flops: int
    launches: int | None
    copy_share: float
    speedup: float

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
    """Read the file's contents.

    Raises:
        ValueError: if it is not of this schema.
    """
    contents: dict[str, Any] = json.loads(path.read_text(encoding="ascii"))
    if contents.get("schema") != SCHEMA or not {"machine", "probes", "rows"} <= contents.keys():
        raise ValueError(f"{path} is not of schema {SCHEMA}: measure it again")
    return contents


def table(rows: Sequence[Measured]) -> str:
    """The rows as text."""
    lines = [f"{'row':52}{'arm':>9}{'cache':>7}{'us':>10}{'GB/s':>9}{'% copy':>8}{'x ref':>7}{'launches':>10}"]
    for r in rows:
        launches = "" if r.launches is None else str(r.launches)
        figures = f"{r.median_us:10.1f}{r.gb_per_s:9.1f}{100 * r.copy_share:8.0f}{r.speedup:7.2f}{launches:>10}"
        lines.append(f"{r.row:52}{r.arm:>9}{r.cache:>7}{figures}")
    return "\n".join(lines)
