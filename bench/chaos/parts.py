"""The parts of the suite as jobs, in the order in which they begin: what always takes as long first, the disk last."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

from bench.chaos import faults, flips, memory, mutations, numbers
from bench.chaos.kills import kills
from bench.chaos.lanes import Job
from bench.chaos.rows import Clock, Row
from bench.chaos.stages import NAMES, Setting

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
            work = partial(kills, stage=stage, number=number, count=count[is_short])
            jobs.append(Job("kills", often * (SECONDS[stage] + COPIES_S / 4), work))
    for what, stage in numbers.SUBJECTS.items():
        if stage in stages:
            jobs.append(Job("numbers", 20 * SECONDS[stage], partial(numbers.bad_numbers, what=what)))
    for stage in stages:
        if stage in memory.STAGES:
            work = partial(memory.shortages, stage=stage, count=2 if is_short else 12)
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
