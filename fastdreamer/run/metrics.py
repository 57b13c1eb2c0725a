"""Metrics of a run: JSON lines, TensorBoard events (under a second set of names too), and summary.json for programs."""

from __future__ import annotations

import importlib.util
import io
import json
import math
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastdreamer.errors import UserError
from fastdreamer.run import run_files
from fastdreamer.run.lock import alone
from fastdreamer.run.run_files import BOARD_FOLDER, METRICS
from fastdreamer.system.failures import mend
from fastdreamer.system.files import unwritable, write_atomic
from fastdreamer.system.json_files import COUNT, NUMBER, fault, parse

if TYPE_CHECKING:
    from fastdreamer.run.board import Board

PLAN_NAMES = {
    1: {"loss/dynamics/total": "loss/dynamics"},
    2: {"bc_accuracy": "bc_accuracy", "pred_std": "reward_std"},
    3: {"adv_mean": "advantage_mean", "adv_std": "advantage_std", "n_positive": "positive", "n_negative": "negative"},
}
"""Names, by phase, that a common plan for implementing Dreamer 4 has for some of our figures."""


class MetricsWriter:
    """Appends {"phase": p, "step": s, name: value, ...} to metrics.jsonl and writes the same to TensorBoard.

    A resumed run drops the lines past its checkpoint first, so that no step stands twice.

    Attributes:
        step: the step of the last line, or the step that the writer began at.
    """

    def __init__(self, run_dir: Path, phase: int, first_step: int = 0) -> None:
        self.path, self.phase, self.step = run_dir / METRICS, phase, first_step
        run_dir.mkdir(parents=True, exist_ok=True)
        lines = _lines(self.path)
        kept = [line for line in lines if _is_before(line, phase, first_step)]
        if kept != lines or _has_other_names(self.path):
            write_atomic(self.path, "".join(kept).encode())
        try:
            self._file = io.FileIO(self.path, "a", opener=_open)  # type: ignore[arg-type]
        except OSError as error:
            raise unwritable(self.path, error) from error
        self._board = _tensorboard(run_dir / BOARD_FOLDER / f"phase{phase}", first_step)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Write one line, whole or not at all; values that are not finite become null.

        Raises:
            UserError: if the disk refuses.
        """
        clean = {k: float(v) if math.isfinite(v) else None for k, v in values.items()}
        self._append((json.dumps({"phase": self.phase, "step": step} | clean) + "\n").encode())
        self.step = step
        if self._board is not None:
            shown = {f"phase{self.phase}/{name}": value for name, value in clean.items()}
            shown |= {plan: clean.get(name) for plan, name in PLAN_NAMES.get(self.phase, {}).items()}
            self._board.write(step, {name: value for name, value in shown.items() if value is not None})

    def _append(self, line: bytes) -> None:
        end = os.fstat(self._file.fileno()).st_size
        try:
            written = 0
            while written < len(line):
                written += self._file.write(line[written:])
        except OSError as error:
            with suppress(OSError):
                self._file.truncate(end)
            raise unwritable(self.path, error) from error

    def __enter__(self) -> MetricsWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        if self._board is not None:
            self._board.close()


def read_metrics(run_dir: Path) -> list[dict[str, Any]]:
    """Every line of a run's metrics, in order; a line cut off by a kill, or damaged, is left out."""
    rows = (_row(line) for line in _lines(run_dir / METRICS))
    return [row for row in rows if row is not None]


def _lines(path: Path) -> list[str]:
    """Lines with their ends; only a regular file of the run's own has any, for what a link leads to is not ours.

    Raises:
        UserError: if it is anything else, or cannot be read.
    """
    if not os.path.lexists(path):
        return []
    if path.is_symlink() or not path.is_file():
        raise UserError(f"{path} is {'a link' if path.is_symlink() else 'no file'}: move it out of the run")
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): let this account read it") from error


def _has_other_names(path: Path) -> bool:
    """Whether appending would grow a copy too that was made of hard links."""
    return path.exists() and path.stat().st_nlink > 1


def _open(path: Path, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o666)


def _is_before(line: str, phase: int, first_step: int) -> bool:
    row = _row(line) if line.endswith("\n") else None  # a line cut off where it happens to be whole, too
    return row is not None and bool(row["phase"] != phase or row["step"] <= first_step)


def _row(line: str) -> dict[str, Any] | None:
    """A line's figures, or None where it is damaged; a figure of which nothing can be drawn is null."""
    try:
        row = parse(line)
    except ValueError:
        return None
    if fault(row, {"phase": COUNT, "step": COUNT}):
        return None
    return {name: value if value is None or NUMBER.holds(value) else None for name, value in row.items()}


def _tensorboard(folder: Path, first_step: int) -> Board | None:
    if importlib.util.find_spec("tensorboard") is None:
        return None  # a bare machine with torch alone: the JSON lines hold the same numbers
    try:
        from fastdreamer.run.board import Board

        return Board(folder, first_step)
    except (UserError, OSError):  # of the disk
        raise
    except Exception as error:  # a broken library raises anything
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise UserError(f"tensorboard cannot be used ({reason}): {mend('tensorboard', error)}") from error


HIDDEN = ("phase", "step", "time", "seconds")

Curves = dict[int, dict[str, list[tuple[int, float]]]]


def read_curves(run_dir: Path) -> Curves:
    """Curves by phase and name as (step, value), sorted by step; a step that was logged twice has its last value."""
    found: dict[int, dict[str, dict[int, float]]] = {}
    for line in read_metrics(run_dir):
        phase, step = line.get("phase"), line.get("step")
        if not isinstance(phase, int) or not isinstance(step, int):
            continue
        for name, value in line.items():
            if name not in HIDDEN and isinstance(value, int | float) and not isinstance(value, bool):
                found.setdefault(phase, {}).setdefault(name, {})[step] = float(value)
    return {p: {n: sorted(points.items()) for n, points in metrics.items()} for p, metrics in sorted(found.items())}


def last_values(metrics: Curves) -> dict[str, dict[str, float]]:
    """The last value of everything, by phase ("phase1": {...}), for summary.json; values that are not finite go."""
    return {
        f"phase{phase}": {name: points[-1][1] for name, points in values.items() if math.isfinite(points[-1][1])}
        for phase, values in metrics.items()
    }


@alone
def write_summary(run_dir: Path) -> dict[str, Any]:
    """Merge evaluation, world model, last losses and seconds a stage into `run_dir`/summary.json; return them.

    A part that was not made is an empty object, and so is a damaged timings.json, which is said.

    Raises:
        UserError: if the evaluation is damaged.
    """
    evaluation, world_model = run_files.EVALUATION.read(run_dir), run_files.WORLD_MODEL.read(run_dir)
    seconds = run_files.TIMINGS.read_or_note(run_dir, "left out of summary.json")
    summary: dict[str, Any] = {
        "eval": evaluation or {"policies": {}},
        "world_model": world_model,
        "losses": last_values(read_curves(run_dir)),
        "seconds": seconds,
    }
    run_files.SUMMARY.write(run_dir, summary)
    return summary
