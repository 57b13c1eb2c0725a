"""Commands that are killed, stopped, or out of memory at random moments: one line, then the same bits, no litter."""

from __future__ import annotations

import os
import random
import signal
from functools import partial
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from bench.chaos.children import Child, Ended
from bench.chaos.faults import unclear
from bench.chaos.rows import Row
from bench.chaos.stages import Bench, Setting

STAGES = ("encode", "fit-tokenizer", "phase1", "phase2", "phase3", "eval")
HALVED = "micro-batches (the same gradient)"  # what a phase says that goes on with less memory
NO_DECODER = "pixel decoder: not trained"  # phase 1 is finished by then, and ends well


class Shortage(TorchDispatchMode):
    """Counts operations of this thread that allocate; from number `first` on there is no memory, for one or for all."""

    def __init__(self, first: int, is_for_all: bool) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.first, self.is_for_all, self.count = first, is_for_all, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.partition("::")[2]
        is_empty = name == "empty" and 0 in args[0]
        if func.is_view or name.endswith("_") or name == "_local_scalar_dense" or is_empty:
            return func(*args, **(kwargs or {}))
        self.count += 1
        if self.count == self.first or (self.is_for_all and self.count > self.first):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return func(*args, **(kwargs or {}))


def shortages(given: Setting, stage: str, count: int) -> Row:
    """A stage, `count` times, with a shortage at a random operation: of that one, or of all from there on."""
    bench, chance = given.bench, random.Random(f"{given.seed}:{stage}:memory")
    total, failures, tries = _operations(bench, stage), list[str](), 0
    while tries < count and not given.clock.is_over:
        first, is_for_all = chance.randrange(1, total + 1), bool(tries % 2)
        tries += 1
        bench.restore(stage)
        ended = Child(partial(_short, bench, stage, first, is_for_all)).end(60.0)
        wrong = wrong_end(ended)
        # Halved micro-batches have the same gradient, summed in another order.
        found = [wrong] if wrong else bench.again(stage, is_same=HALVED not in ended.text, forks=True)
        how = "from" if is_for_all else "at"
        failures += [f"{how} operation {first:,} of {stage}: {text}" for text in found]
    return Row("memory", stage, tries, failures, f"of {total:,} operations")


def wrong_end(ended: Ended) -> str:
    """How a command without memory did not end in one line that says so; empty where it did."""
    if wrong := unclear(ended):
        return wrong
    if ended.code == 0:
        return "" if NO_DECODER in ended.text or HALVED in ended.text else "it ends well without its memory"
    return "" if "out of memory" in ended.last_line else f"it does not say that memory ran out: {ended.last_line}"


def _short(bench: Bench, stage: str, first: int, is_for_all: bool) -> None:
    with Shortage(first, is_for_all):
        bench.command(stage, forks=True)


def _operations(bench: Bench, stage: str) -> int:
    """How many an undisturbed run has."""
    bench.restore(stage)
    read, write = os.pipe()

    def count() -> None:
        mode = Shortage(0, is_for_all=False)
        try:
            with mode:
                bench.command(stage, forks=True)
        finally:
            os.write(write, str(mode.count).encode())

    ended = Child(count).end()
    os.close(write)
    with os.fdopen(read) as numbers:
        total = int(numbers.read() or 0)
    assert ended.code == 0 and total, ended.text
    return total


CHAIN = 5  # kills of one run, which goes on after each, before it may finish
STOPPED = {128 + signal.SIGTERM, -signal.SIGTERM, 0}  # killed before there was a handler, or after the work was done
STOPS_S = 30.0


def kills(given: Setting, stage: str, count: int, number: signal.Signals) -> Row:
    """A stage, sent a signal at `count` random moments."""
    bench, chance = given.bench, random.Random(f"{given.seed}:{stage}:{number}")
    failures: list[str] = []
    tries = 0
    while tries < count and not given.clock.is_over:
        bench.restore(stage)
        trouble: list[str] = []
        for _ in range(min(CHAIN, count - tries)):
            tries += 1
            child = Child(lambda: bench.command(stage))
            is_hit = child.sleep(chance.uniform(0, bench.seconds[stage]))
            child.send(number)
            ended = child.end(STOPS_S)
            if ended.left:
                trouble.append(f"{stage} leaves {ended.left} processes")
            elif number == signal.SIGTERM and (ended.code not in STOPPED or ended.has_traceback):
                trouble.append(f"{stage} ends with {ended.code}: {ended.last_line}")
            elif not is_hit and ended.code not in (0, -number):
                trouble.append(f"{stage} does not go on ({ended.code}): {ended.last_line}")
            if trouble or not is_hit:
                break
        failures += trouble or bench.again(stage)
    return Row(number.name, stage, tries, failures, f"{bench.seconds[stage]:.1f} s undisturbed")
