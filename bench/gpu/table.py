"""What the runner leaves: the table, and one JSON with everything, written anew after every part."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bench.gpu.reading import Figure
from fastdreamer.system.files import write_atomic

SCHEMA = 1
NAME = "gpu.json"
WIDTH = 72  # of the figures
TAIL = 60  # lines of a log that the JSON carries
QUIET = ("passed", "starts", "not begun", "running")
"""Verdicts whose logs nobody needs."""


@dataclass
class PartRow:
    """A part's line; figures are (text, target) pairs."""

    part: str
    about: str
    verdict: str = "not begun"
    figures: list[Figure] = field(default_factory=list)
    seconds: float = 0.0
    limit_s: float = 0.0
    memory_gb: float = 0.0
    code: int | None = None
    command: list[str] = field(default_factory=list)
    measured: Any = None
    log: list[str] = field(default_factory=list)


def save(folder: Path, about: Mapping[str, Any], rows: Sequence[PartRow]) -> Path:
    """Writes everything so far, whole or not at all."""
    path = folder / NAME
    entries = [asdict(row) | {"figures": [figure._asdict() for figure in row.figures]} for row in rows]
    text = json.dumps({"schema": SCHEMA, "machine": dict(about), "parts": entries}, indent=1)
    write_atomic(path, f"{text}\n".encode("ascii"))
    return path


def tail(log: Path, verdict: str) -> list[str]:
    """The end of a log, where somebody will ask for it."""
    if verdict in QUIET or not log.exists():
        return []
    return log.read_text("utf-8", "replace").splitlines()[-TAIL:]


def table(rows: Sequence[PartRow]) -> str:
    """Part, verdict, figure, target; a line a figure, wrapped."""
    wide = max(len("part"), *(len(row.part) for row in rows))
    verdict = max(len("verdict"), *(len(row.verdict) for row in rows))
    lines = [f"{'part':<{wide}}  {'verdict':<{verdict}}  {'s':>5}  {'figure':<{WIDTH}}  target"]
    for row in rows:
        first = f"{row.part:<{wide}}  {row.verdict:<{verdict}}  {row.seconds:5.0f}"
        for figure in row.figures or [Figure("")]:
            pieces = textwrap.wrap(_plain(figure.text), WIDTH) or [""]
            for number, piece in enumerate(pieces):
                target = figure.target if number == 0 else ""
                lines.append(f"{first}  {piece:<{WIDTH}}  {target}".rstrip())
                first = " " * len(first)
    return "\n".join(lines)


def _plain(text: str) -> str:
    return "".join(char if char.isprintable() else " " for char in text)[:400]
