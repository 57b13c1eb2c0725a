"""The training loop itself: steps of a phase from its first batch to its checkpoint, against plain steps alone."""

from __future__ import annotations

import contextlib
import io
import math
import shutil
from functools import partial
from typing import Any

from bench.arm import Arm
from bench.gate.rows.base import GateRow, Place, RowWork, Wrong
from bench.gate.rows.phases import phase_one, phase_three, phase_two
from bench.gate.rows.recordings import counted_calls
from bench.phases import made_up_phase
from fastdreamer.training.loop import fit
from fastdreamer.training.phase import Phase

STEPS = 6


def run(number: int, place: Place) -> RowWork:
    """`fit` for a few steps, logged at the first and the last, saved once."""
    keys = f"phase{number}={{steps: {STEPS}, log_every: 1000, checkpoint_every: 1000}}"
    config = place.config(keys)
    train, make = config.phase(number), {1: phase_one, 2: phase_two, 3: phase_three}[number]

    def fresh() -> Phase[Any]:
        return made_up_phase(config, number, place.backend)

    def ours(phase: Phase[Any]) -> dict[str, float]:
        shutil.rmtree(place.folder / "run", ignore_errors=True)
        with contextlib.redirect_stderr(io.StringIO()):
            return fit(phase, config, train, place.folder / "run", place.backend, "made up")

    def plain(_: object) -> None:
        for _ in range(STEPS):
            step()

    def check() -> None:
        figures = ours(fresh())
        if not all(math.isfinite(value) for value in figures.values()):
            raise Wrong(f"figures are no numbers: {figures}")

    def counts() -> dict[str, int]:
        with counted_calls("os.fsync") as synced:
            ours(fresh())
        files = [file for file in (place.folder / "run").rglob("*") if file.is_file()]
        tensors = sum(file.stat().st_size for file in files if file.suffix == ".safetensors")
        return {"fsyncs": synced[0], "files": sum("tfevents" not in file.name for file in files), "bytes": tensors}

    step = make(place)[1]
    return RowWork(check, counts, Arm(ours, fresh), Arm(plain), STEPS, "steps")


ROWS = tuple(GateRow(f"train phase {number}", partial(run, number), is_short=False) for number in (1, 2, 3))
