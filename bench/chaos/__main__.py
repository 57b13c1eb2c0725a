"""`make chaos`: what the project promises of kills, damage, failing disks and bad numbers, tried in numbers that count.

    python -m bench.chaos [--short] [--seed N] [--minutes M] [--only PART[,PART]]

Prints one table of figures, tries and failures, with an example of every kind of failure; exit code 1 where there is
one. --short takes at most a minute and has a little of everything.
"""

from __future__ import annotations

import argparse
import importlib
import os
import pickle
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench.chaos import faults, flips, mutations, numbers
from bench.chaos.children import Child
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


@dataclass(frozen=True)
class Setting:
    """What a part works with."""

    folder: Path
    bench: Bench
    clock: Clock
    is_short: bool
    seed: int

    def built(self) -> Iterator[Row]:
        """The undisturbed run, made once for all parts; a row only where that fails."""
        wrong, began = self.bench.build(("encode", "phase1") if self.is_short else NAMES), time.monotonic()
        if wrong:
            yield Row("undisturbed", "all", len(NAMES), wrong, "", time.monotonic() - began)


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
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
        os.chdir(folder)
        warm_up()
        lanes = [[name for name in lane if name in chosen] for lane in LANES]
        progress = os.dup(sys.stderr.fileno())
        running = [
            Child(partial(run_lane, Path(folder) / f"lane{number}", lane, seconds, given, progress))
            for number, lane in enumerate(lanes)
            if lane
        ]
        failed = [ended for child in running if (ended := child.end(seconds + 600.0)).code]
        rows = [row for path in sorted(Path(folder).glob("*.rows")) for row in pickle.loads(path.read_bytes())]
        os.chdir("/")
    rows += [Row("chaos", "itself", 1, [ended.last_line]) for ended in failed]
    print(table(rows, given.seed))
    return 1 if any(row.failures for row in rows) else 0


def run_lane(folder: Path, parts: Sequence[str], seconds: float, given: argparse.Namespace, progress: int) -> None:
    """In a process: parts one after another; their rows go into a file beside the folder."""
    rows: list[Row] = []
    whole = sum(SHARES[name] for name in parts)
    bench = Bench(folder / "bench")
    for name in parts:
        clock = Clock(seconds * SHARES[name] / whole)
        (folder / name).mkdir(parents=True)
        for row in PARTS[name](Setting(folder / name, bench, clock, given.short, given.seed)):
            rows.append(row)
            os.write(progress, f"{row.part}, {row.what}: {len(row.failures)} of {row.tries} failed\n".encode())
            folder.with_suffix(".rows").write_bytes(pickle.dumps(rows))


def warm_up() -> None:
    """What every forked child needs, imported once; nothing of torch is run here, or its threads would be missed."""
    os.environ["OMP_NUM_THREADS"] = "1"
    for name in HEAVY:
        importlib.import_module(name)


def kill_part(given: Setting) -> Iterator[Row]:
    """kill -9 and SIGTERM."""
    yield from given.built()
    stages = list(given.bench.after)
    for number, count in ((signal.SIGKILL, 3 if given.is_short else 26), (signal.SIGTERM, 2 if given.is_short else 7)):
        for place, stage in enumerate(stages):
            ahead = len(stages) - place + (len(stages) / 3 if number == signal.SIGKILL else 0)
            yield kills(given.bench, stage, count, number, given.clock.part(1 / ahead), given.seed)


def flip_part(given: Setting) -> Iterator[Row]:
    """Single bytes."""
    for target in flips.targets(given.folder):
        yield flips.flips(target, 60 if given.is_short else 2_200, given.clock.part(1 / 2), given.seed)


def input_part(given: Setting) -> Iterator[Row]:
    """Damaged inputs."""
    for place, kind in enumerate(mutations.inputs(given.folder)):
        yield mutations.mutations(kind, 60 if given.is_short else 5_000, given.clock.part(1 / (6 - place)), given.seed)


def disk_part(given: Setting) -> Iterator[Row]:
    """Full, refusing and failing disks."""
    yield from given.built()
    stages = list(given.bench.after)
    for place, stage in enumerate(stages):
        clock = given.clock.part(1 / (len(stages) - place))
        yield faults.limits(given.bench, stage, clock.part(1 / 5))
        yield faults.faults(given.bench, stage, clock)


def number_part(given: Setting) -> Iterator[Row]:
    """Not finite, out of memory, and long."""
    yield from given.built()
    for stage in given.bench.after:
        if stage.startswith("phase"):
            limit = 3 if given.is_short else 18
            yield numbers.bad_numbers(given.bench, int(stage[-1]), given.clock.part(1 / 5), limit)
    yield numbers.flat(given.folder, given.clock, numbers.SHORT_STEPS if given.is_short else numbers.STEPS)


PARTS: dict[str, Callable[[Setting], Iterator[Row]]] = {
    "kills": kill_part,
    "flips": flip_part,
    "inputs": input_part,
    "disk": disk_part,
    "numbers": number_part,
}
SHARES = {"kills": 5.0, "numbers": 2.5, "flips": 1.0, "inputs": 4.0, "disk": 5.0}
LANES = (("kills", "numbers"), ("flips", "inputs", "disk"))  # beside one another, for two cores


if __name__ == "__main__":
    raise SystemExit(main())
