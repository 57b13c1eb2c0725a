"""summary.json: the numbers of a run in one file, for programs."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from fastdreamer.errors import UserError
from fastdreamer.run import contents
from fastdreamer.run.lock import alone
from fastdreamer.run.metrics import last_values, read_curves
from fastdreamer.system.files import write_atomic
from fastdreamer.system.json_files import read_object


@alone
def write_summary(run_dir: Path) -> dict[str, Any]:
    """Merge evaluation, world model, last losses and seconds a stage into `run_dir`/summary.json; return them.

    A part that was not made is an empty object, and so is a damaged timings.json, which is said.

    Raises:
        UserError: if the evaluation is damaged.
    """
    evaluation, world_model = (
        read_object(run_dir / name, contents.FILES[name]) for name in ("evaluation.json", "world_model.json")
    )
    try:
        seconds = read_object(run_dir / "timings.json", contents.FILES["timings.json"], "left out of summary.json")
    except UserError as error:
        print(f"note: {error}", file=sys.stderr, flush=True)
        seconds = {}
    summary: dict[str, Any] = {
        "eval": evaluation or {"policies": {}},
        "world_model": world_model,
        "losses": last_values(read_curves(run_dir)),
        "seconds": seconds,
    }
    write_json(run_dir / "summary.json", summary)
    return summary


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write an object for people and programs to read; what is not a finite number is a bug, not a value."""
    write_atomic(path, (json.dumps(value, indent=1, allow_nan=False) + "\n").encode())
