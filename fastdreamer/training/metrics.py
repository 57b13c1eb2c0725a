"""Metrics of a run: JSON lines and TensorBoard events, there under the names of the Dreamer 4 plan too."""

from __future__ import annotations

import importlib.util
import json
import math
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from fastdreamer.broken import mend
from fastdreamer.errors import UserError

PLAN_NAMES = {
    1: {"loss/dynamics/total": "loss/dynamics"},
    2: {"bc_accuracy": "bc_accuracy", "pred_std": "reward_std"},
    3: {
        "adv_mean": "advantage_mean",
        "adv_std": "advantage_std",
        "n_positive": "positive",
        "n_negative": "negative",
    },
}
"""By phase: what the plan's debugging tables call some of our figures."""


class MetricsWriter:
    """Appends {"phase": p, "step": s, name: value, ...} to metrics.jsonl and writes the same to TensorBoard.

    A resumed run drops the lines past its checkpoint first, so that no step stands twice.
    """

    def __init__(self, run_dir: Path, phase: int, first_step: int = 0) -> None:
        self.path, self.phase = run_dir / "metrics.jsonl", phase
        run_dir.mkdir(parents=True, exist_ok=True)
        kept = [line for line in _lines(self.path) if _is_before(line, phase, first_step)]
        self.path.write_text("".join(kept))
        self._file = self.path.open("a")
        self._board = _tensorboard(run_dir / "tensorboard" / f"phase{phase}", first_step)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """One line; values that are not finite become null."""
        clean = {k: float(v) if math.isfinite(v) else None for k, v in values.items()}
        self._file.write(json.dumps({"phase": self.phase, "step": step} | clean) + "\n")
        self._file.flush()
        if self._board is not None:
            shown = {f"phase{self.phase}/{name}": value for name, value in clean.items()}
            shown |= {plan: clean.get(name) for plan, name in PLAN_NAMES.get(self.phase, {}).items()}
            for name, value in shown.items():
                if value is not None:
                    self._board.add_scalar(name, value, step)

    def __enter__(self) -> MetricsWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._file.close()
        if self._board is not None:
            self._board.close()


def read_metrics(run_dir: Path) -> list[dict[str, Any]]:
    """Every line of a run's metrics, in order; a line cut off by a kill is left out."""
    rows = []
    for line in _lines(run_dir / "metrics.jsonl"):
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    return rows


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines(keepends=True) if path.exists() else []


def _is_before(line: str, phase: int, first_step: int) -> bool:
    try:
        row = json.loads(line)
    except ValueError:
        return False
    return bool(row["phase"] != phase or row["step"] <= first_step)


def _tensorboard(folder: Path, first_step: int) -> Any:
    if importlib.util.find_spec("tensorboard") is None:
        return None  # a bare machine with torch alone: the JSON lines hold the same numbers
    try:
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter(str(folder), purge_step=first_step + 1 if first_step else None)
    except OSError:  # of the disk
        raise
    except Exception as error:  # a broken library raises anything
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise UserError(f"tensorboard cannot be used ({reason}): {mend('tensorboard', error)}") from error
