"""summary.json: the numbers of a run in one file, for programs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fastdreamer.errors import UserError
from fastdreamer.evaluation.curves import last_values, read_metrics
from fastdreamer.files import write_atomic


def write_summary(run_dir: Path) -> dict[str, Any]:
    """Merge evaluation, world model, last losses and seconds a stage into `run_dir`/summary.json; return them.

    A part that was not made is an empty object.

    Raises:
        UserError: if a part is no JSON object.
    """
    evaluation = read_object(run_dir / "evaluation.json")
    summary: dict[str, Any] = {
        "eval": evaluation or {"policies": {}},
        "world_model": read_object(run_dir / "world_model.json"),
        "losses": last_values(read_metrics(run_dir)),
        "seconds": read_object(run_dir / "timings.json"),
    }
    write_json(run_dir / "summary.json", summary)
    return summary


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write an object for people and programs to read; what is not a finite number is a bug, not a value."""
    write_atomic(path, (json.dumps(value, indent=1, allow_nan=False) + "\n").encode())


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in `path`, empty if there is no such file.

    Raises:
        UserError: if it holds anything else.
    """
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise UserError(f"{path} is no JSON object; delete it and run the command that writes it again")
    return value
