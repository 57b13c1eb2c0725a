"""Runs rows of the gate: correctness first, then counts, then times; what is wrong is neither counted nor timed.

A time is one over a reference's, in pairs until it is precise enough; built for machines that do other work as well.
Each timing is short, so that an interruption spoils few of them; pairs are taken in the order ABBA; the median of the
pairs and an error from their middle, not their tails, are untouched by the few that were interrupted.
"""

from __future__ import annotations

import gc
import io
import json
import math
import statistics
import tempfile
import time
from collections.abc import Iterable, Sequence
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from bench.count import no_collection
from bench.gate.expectations import Timed
from bench.gate.rows import GateRow, Place, RowWork, Wrong
from bench.timing import seconds_of

PRECISE = 0.12 / 3
"""Standard error of the median, relative: three of them are 12 %. What is not as precise is not gated."""
AIM = 0.025
"""The standard error at which pairs end before the time is up."""
TARGET_S = 0.004
LEAST_PAIRS = 16


def until_precise(work: RowWork, budget_s: float) -> Timed:
    """Pairs of the row's two arms, at least LEAST_PAIRS, until the error is AIM or the time is up."""
    ours, reference = work.ours, work.reference
    assert ours is not None and reference is not None
    for arm in (ours, reference, ours, reference):
        arm.run(arm.prepare())
    slower = max(min(seconds_of(arm, 1) for _ in range(2)) for arm in (ours, reference))
    calls = max(1, round(TARGET_S / max(slower, 1e-7)))
    ratios: list[float] = []
    times: list[float] = []
    began = time.perf_counter()
    with no_collection():
        while True:
            first, second = seconds_of(reference, calls), seconds_of(ours, calls)
            third, fourth = seconds_of(ours, calls), seconds_of(reference, calls)
            ratios += [second / first, third / fourth]
            times += [second, third]
            error = median_error(ratios)
            is_over = time.perf_counter() - began > budget_s
            if (len(ratios) >= LEAST_PAIRS and error <= AIM) or (is_over and len(ratios) >= 4):
                break
    seconds = statistics.median(times)
    ratio = math.exp(statistics.median(map(math.log, ratios)))
    return Timed(ratio, error, len(ratios), seconds, work.items / seconds, work.unit)


def is_precise(timed: Timed) -> bool:
    """Whether three standard errors of the median are at most 12 %."""
    return timed.error <= PRECISE


def median_error(ratios: Sequence[float]) -> float:
    """Relative standard error of the median, from the distance of two order statistics around it.

    Source: McKean and Schrader 1984. Needs no shape of the distribution, and no outlier moves it.
    """
    logs, n = sorted(map(math.log, ratios)), len(ratios)
    if n < 8:
        return math.inf
    z = 2.5758
    k = max(1, round((n + 1) / 2 - z * math.sqrt(n / 4)))
    return (logs[n - k] - logs[k - 1]) / (2 * z)


BUDGET_S = {"short": 4.0, "full": 10.0}
"""Seconds that a row's pairs may take, where they are not precise before."""


@dataclass
class Measured:
    """Everything that rows gave, by name.

    Attributes:
        counts: and `times`: results of rows that are right; a row without arms has no time.
        wrong: why a row gave nothing, in one line.
        left_out: rows that are not for this run or machine, and why.
    """

    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    times: dict[str, Timed] = field(default_factory=dict)
    wrong: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        """Save the measurements as JSON."""
        path.write_text(json.dumps(asdict(self), indent=1) + "\n", "ascii")

    @classmethod
    def load(cls, path: Path) -> Measured:
        """Load what `save` wrote."""
        contents: dict[str, Any] = json.loads(path.read_text("ascii"))
        times = {name: Timed(**value) for name, value in contents.pop("times").items()}
        return cls(**contents, times=times)


def measure(rows: Iterable[GateRow], device: torch.device, is_full: bool, is_timed: bool) -> Measured:
    """Every row, one after another, each in a folder of its own; prints a line a row."""
    found = Measured()
    for row in rows:
        if reason := row.left_out(device.type) or ("" if is_full or row.is_short else "runs with --full"):
            found.left_out[row.name] = reason
            continue
        try:
            with redirect_stdout(io.StringIO()):
                _measure(row, device, BUDGET_S["full" if is_full else "short"] if is_timed else 0.0, found)
        except Wrong as error:
            found.wrong[row.name] = f"the result is not its reference's: {' '.join(str(error).split())}"
        except Exception as error:  # compilers and drivers raise anything, and the other rows are worth having
            found.wrong[row.name] = " ".join(f"it failed with {type(error).__name__}: {error}".split())[:400]
        print(line(row.name, found), flush=True)
    return found


def _measure(row: GateRow, device: torch.device, budget_s: float, found: Measured) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    with tempfile.TemporaryDirectory(prefix="fastdreamer-gate-") as folder:
        work = row.build(Place(device, Path(folder)))
        work.check()
        counts = work.counts()
        if device.type == "cuda" and work.ours is not None:
            counts |= _gpu_memory(work, device)
        found.counts[row.name] = counts
        if work.ours is not None and budget_s:
            found.times[row.name] = until_precise(work, budget_s)


def _gpu_memory(work: RowWork, device: torch.device) -> dict[str, int]:
    """Peaks of torch's allocator over one call, what the row holds before it included."""
    assert work.ours is not None
    torch.cuda.synchronize(device)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    work.ours.run(work.ours.prepare())
    torch.cuda.synchronize(device)
    allocated, reserved = torch.cuda.max_memory_allocated(device), torch.cuda.max_memory_reserved(device)
    return {"allocated_bytes": allocated, "reserved_bytes": reserved}


def line(name: str, found: Measured) -> str:
    """A row in one line."""
    if name in found.wrong:
        return f"{name:32} WRONG {found.wrong[name]}"
    parts = []
    if name in found.times:
        timed = found.times[name]
        parts.append(f"{timed.ratio:6.3f} +-{timed.ratio * timed.error:6.3f} {timed.pairs:4} pairs")
        parts.append(f"{timed.rate:9,.4g} {timed.unit}/s")
    shown = [(key, value) for key, value in found.counts[name].items() if value or key.endswith(("s", "bytes"))]
    few = shown if len(shown) <= 7 else shown[:6] + [("... of", len(shown))]
    return f"{name:32} {'  '.join(parts):48} " + ", ".join(f"{key} {value:,}" for key, value in few)
