"""The parts of the suite as jobs, in the order in which they begin: what always takes as long first, the disk last."""

from __future__ import annotations

import os
import pickle
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from bench.chaos import endings, faults, flips, mutations, numbers
from bench.chaos.children import Child
from bench.chaos.rows import Clock, Row
from bench.chaos.stages import NAMES, Bench, Setting

LANES = 2  # one for each of two cores
LATE_S = 600.0  # a lane that is so late hangs


@dataclass(frozen=True)
class Job:
    """A unit of work of a part.

    Attributes:
        seconds: about how long it takes in full; time that is short is shared out by those.
        work: does it; a row is shown when it is there.
        needs_bench: it disturbs the commands of a bench.
    """

    part: str
    seconds: float
    work: Callable[[Setting], Row | Iterator[Row]]
    needs_bench: bool = True


def run_jobs(
    jobs: Sequence[Job], folder: Path, stages: tuple[str, ...], clock: Clock, seed: int, short: bool
) -> list[Row]:
    """All jobs, in order, in lanes; their rows in the jobs' order."""
    assert len(jobs) < 256, "a job's number is a byte"
    numbers, write = os.pipe()  # whoever reads a byte takes that job
    os.write(write, bytes(range(len(jobs))))
    os.close(write)
    progress = os.dup(sys.stderr.fileno())

    def lane(number: int) -> None:
        bench = Bench(folder / f"lane{number}")
        while (taken := os.read(numbers, 1)) and not clock.is_over:
            index, job = taken[0], jobs[taken[0]]
            if wrong := bench.build(stages) if job.needs_bench else []:
                row = Row("undisturbed", "all", len(stages), wrong)
                (folder / f"{index:03}.rows").write_bytes(pickle.dumps([row]))
                return
            left = sum(job.seconds for job in jobs[index:])
            mine = clock.part(min(1.0, LANES * job.seconds / left))
            own = folder / f"job{index}"
            own.mkdir()
            rows: list[Row] = []
            began, made = time.monotonic(), job.work(Setting(own, folder, bench, mine, short, seed))
            for row in [made] if isinstance(made, Row) else made:
                rows.append(replace(row, seconds=time.monotonic() - began))
                began = time.monotonic()
                os.write(progress, f"{row.part}, {row.what}: {len(row.failures)} of {row.tries} failed\n".encode())
                (folder / f"{index:03}.rows").write_bytes(pickle.dumps(rows))

    lanes = [Child(partial(lane, number)) for number in range(LANES)]
    broken = [ended for child in lanes if (ended := child.end(clock.seconds + LATE_S)).code]
    os.close(numbers)
    files = [folder / f"{index:03}.rows" for index in range(len(jobs))]
    rows = [row for path in files if path.exists() for row in pickle.loads(path.read_bytes())]
    missing = Counter(job.part for job, path in zip(jobs, files, strict=True) if not path.exists())
    rows += [Row(part, f"{count} more jobs", 0, note="not begun, for time") for part, count in missing.items()]
    return rows + [Row("chaos", "itself", 1, [ended.last_line]) for ended in broken]


LEAST_S = 1.0
PARTS = ("kills", "flips", "inputs", "disk", "numbers")
SHORT_STAGES = ("encode", "fit-tokenizer", "phase1", "eval")
SECONDS = {
    "record": 2.7, "encode": 0.5, "fit-tokenizer": 2.0, "phase1": 1.1, "phase2": 0.7, "phase3": 0.5, "eval": 5.0,
    "report": 0.3,
}  # fmt: skip
COPIES_S = 0.3  # a folder put back, and compared
SECONDS_OF_INPUTS = {"mp4": 80.0, "npz": 30.0, "metadata": 40.0, "jsonl": 120.0, "YAML": 50.0, "override": 55.0}
KILLS, STOPS = (26, 3), (7, 2)  # a stage, and in the short form


def all_jobs(is_short: bool) -> list[Job]:
    """Every job; in the short form a little of everything."""
    stages = SHORT_STAGES if is_short else NAMES
    jobs = [Job("numbers", 150.0, numbers.flat, False), Job("flips", 110.0, _flips, False)]
    jobs += [Job("inputs", seconds, partial(_inputs, name), False) for name, seconds in SECONDS_OF_INPUTS.items()]
    for number, often, count in ((signal.SIGKILL, 26, KILLS), (signal.SIGTERM, 10, STOPS)):
        for stage in stages:
            work = partial(endings.kills, stage=stage, number=number, count=count[is_short])
            jobs.append(Job("kills", often * (SECONDS[stage] + COPIES_S / 4), work))
    for what, stage in numbers.SUBJECTS.items():
        if stage in stages:
            jobs.append(Job("numbers", 20 * SECONDS[stage], partial(numbers.bad_numbers, what=what)))
    for stage in stages:
        if stage in endings.STAGES:
            work = partial(endings.shortages, stage=stage, count=2 if is_short else 12)
            jobs.append(Job("numbers", 15 * SECONDS[stage], work))
    jobs += [Job("disk", 50 * (SECONDS[stage] + COPIES_S), partial(_places, stage)) for stage in stages]
    for stage in stages:
        jobs.append(Job("disk", 20 * (SECONDS[stage] + COPIES_S), partial(faults.other_errors, stage=stage)))
    return jobs


def _flips(given: Setting) -> Iterator[Row]:
    targets = flips.targets(given.folder)
    for place, target in enumerate(targets):
        clock = given.clock.part(1 / (len(targets) - place))
        clock = Clock(max(clock.seconds, LEAST_S))  # what is changed may have taken all the time to make
        yield flips.flips(target, 40 if given.is_short else target.tries, clock, given.seed)


def _inputs(name: str, given: Setting) -> Row:
    (kind,) = (kind for kind in mutations.inputs(given.folder) if kind.name == name)
    return mutations.mutations(kind, 60 if given.is_short else 5_000, given.clock, given.seed)


def _places(stage: str, given: Setting) -> Iterator[Row]:
    yield faults.limits(replace(given, clock=given.clock.part(1 / 5)), stage)
    yield faults.places(given, stage)
