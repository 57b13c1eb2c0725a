"""Commands that are killed or stopped at random moments, and then go on: the same bits as undisturbed, no litter."""

from __future__ import annotations

import random
import signal

from bench.chaos.children import Child
from bench.chaos.rows import Row
from bench.chaos.stages import Setting

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
