"""`make chaos`: what the project promises of kills, damage, failing disks and bad numbers, tried in numbers that count.

    python -m bench.chaos [--short] [--seed N] [--minutes M] [--only PART[,PART]]

Prints one table of figures, tries and failures, with an example of every kind of failure; exit code 1 where there is
one. --short takes at most a minute and has a little of everything.
"""

from __future__ import annotations

import argparse
import importlib
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from bench.chaos import faults, flips, mutations, numbers
from bench.chaos.kills import kills
from bench.chaos.rows import Clock, Row, table
from bench.chaos.stages import NAMES, Bench

FULL_S, SHORT_S = 840.0, 55.0
HEAVY = (
    "diffusers.models.autoencoders.autoencoder_kl_cosmos", "torch.utils.tensorboard", "fastdreamer.commands",
    "fastdreamer.demo", "fastdreamer.diagnosis.run", "fastdreamer.envs.record", "fastdreamer.evaluation.evaluate",
    "fastdreamer.evaluation.report", "fastdreamer.planning.run", "fastdreamer.tokenizer.fit",
    "fastdreamer.training.train", "fastdreamer.tokenizer.engines", "fastdreamer.tokenizer.acting",
    "fastdreamer.training.pixels", "fastdreamer.data.encode", "crafter",
)  # fmt: skip


def main() -> int:
    """Run the parts and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--short", action="store_true", help="at most a minute")
    parser.add_argument("--seed", type=int, default=0, help="of all chance (default: 0)")
    parser.add_argument("--minutes", type=float, help="how long at most (default: 14, or 1 with --short)")
    parser.add_argument("--only", default="", help=f"some of {', '.join(PARTS)}")
    given = parser.parse_args()
    seconds = 60 * given.minutes if given.minutes else SHORT_S if given.short else FULL_S
    chosen = [name for name in given.only.split(",") if name] or list(PARTS)
    unknown = set(chosen) - set(PARTS)
    if unknown:
        parser.error(f"no part {min(unknown)!r}; there are {', '.join(PARTS)}")
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
        os.chdir(folder)
        warm_up()
        for name in chosen:
            share = seconds * SHARES[name] / sum(SHARES[other] for other in chosen)
            part = Path(folder) / name
            part.mkdir()
            print(f"[{name}]", file=sys.stderr, flush=True)
            for row in PARTS[name](part, Clock(share), given.short, given.seed):
                rows.append(row)
                print(f"  {row.what}: {len(row.failures)} of {row.tries}", file=sys.stderr, flush=True)
        os.chdir("/")
    print(table(rows, given.seed))
    return 1 if any(row.failures for row in rows) else 0


def warm_up() -> None:
    """What every forked child needs, imported once; nothing of torch is run here, or its threads would be missed."""
    os.environ["OMP_NUM_THREADS"] = "1"
    for name in HEAVY:
        importlib.import_module(name)


def kill_part(folder: Path, clock: Clock, is_short: bool, seed: int) -> Iterator[Row]:
    """kill -9 and SIGTERM."""
    stages = ("encode", "phase1") if is_short else NAMES
    bench = Bench(folder)
    yield from _built(bench, stages)
    for number, count in ((signal.SIGKILL, 3 if is_short else 26), (signal.SIGTERM, 2 if is_short else 7)):
        for stage in bench.after:
            left = clock.ends_at - time.monotonic()
            turns = len(bench.after) * (1.3 if number == signal.SIGKILL else 0.3)
            yield kills(bench, stage, count, number, Clock(max(left / turns, left / 10)), seed)


def flip_part(folder: Path, clock: Clock, is_short: bool, seed: int) -> Iterator[Row]:
    """Single bytes."""
    found = flips.targets(folder)
    for target in found:
        share = Clock((clock.ends_at - time.monotonic()) / 2)
        yield flips.flips(target, 60 if is_short else 2_200, share, seed)


def input_part(folder: Path, clock: Clock, is_short: bool, seed: int) -> Iterator[Row]:
    """Damaged inputs."""
    for number, given in enumerate(mutations.inputs(folder)):
        share = Clock((clock.ends_at - time.monotonic()) / (6 - number))
        yield mutations.mutations(given, 60 if is_short else 5_000, share, seed)


def disk_part(folder: Path, clock: Clock, is_short: bool, seed: int) -> Iterator[Row]:
    """Full, refusing and failing disks."""
    del seed
    stages = ("encode", "phase1") if is_short else NAMES
    bench = Bench(folder)
    yield from _built(bench, stages)
    for number, stage in enumerate(bench.after):
        share = (clock.ends_at - time.monotonic()) / (len(bench.after) - number)
        yield faults.limits(bench, stage, Clock(share / 5))
        yield faults.faults(bench, stage, Clock(share * 0.8))


def number_part(folder: Path, clock: Clock, is_short: bool, seed: int) -> Iterator[Row]:
    """Not finite, out of memory, and long."""
    del seed
    bench = Bench(folder)
    yield from _built(bench, ("encode", "phase1") if is_short else ("encode", "phase1", "phase2", "phase3"))
    for stage in bench.after:
        if stage.startswith("phase"):
            yield numbers.bad_numbers(bench, int(stage[-1]), Clock(clock.seconds / 5), 3 if is_short else 18)
    (folder / "long").mkdir()
    left = Clock(clock.ends_at - time.monotonic())
    yield numbers.flat(folder / "long", left, numbers.SHORT_STEPS if is_short else numbers.STEPS)


def _built(bench: Bench, stages: tuple[str, ...]) -> Iterator[Row]:
    began = time.monotonic()
    wrong = bench.build(stages)
    if wrong:
        yield Row("undisturbed", "all", len(stages), wrong, "", time.monotonic() - began)


PARTS: dict[str, Callable[[Path, Clock, bool, int], Iterator[Row]]] = {
    "kills": kill_part,
    "flips": flip_part,
    "inputs": input_part,
    "disk": disk_part,
    "numbers": number_part,
}
SHARES = {"kills": 5.0, "flips": 1.0, "inputs": 4.0, "disk": 4.0, "numbers": 2.5}


if __name__ == "__main__":
    raise SystemExit(main())
