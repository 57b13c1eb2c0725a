"""Jobs beside one another: each lane is a process that takes the next job, until there is none or no time."""

from __future__ import annotations

import os
import pickle
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from bench.chaos.children import Child
from bench.chaos.rows import Clock, Row
from bench.chaos.stages import Bench, Setting

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
