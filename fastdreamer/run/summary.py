"""summary.json: the numbers of a run in one file, for programs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastdreamer.run import run_files
from fastdreamer.run.lock import alone
from fastdreamer.run.metrics import last_values, read_curves


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
