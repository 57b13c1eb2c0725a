"""Kills of a random rank at random moments, with what came of each: one line a kill.

    python tests/distributed/kills.py [--kills 20] [--ranks 2] [--seed 0]

Every launch trains phase 1 of the debug preset under `torchrun --max-restarts 3`. It must finish by itself with the
losses of an undisturbed one, bit for bit, go on from the newest checkpoint that was whole at the kill (or a newer one),
and leave no process. Exit code 1 where one does not.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / name) for name in ("tests", ".", "kernels", "engines")]

from distributed.launches import ended, launched, new_run  # noqa: E402

from fastdreamer.run.checkpoint import steps_in  # noqa: E402
from fastdreamer.run.metrics import read_metrics  # noqa: E402

STEPS, SLOW_S = 60, 0.1
WORDS = (f"phase1.steps={STEPS}", "phase1.checkpoint_every=7")


def losses(run: Path) -> list[tuple[int, float]]:
    return [(row["step"], row["loss"]) for row in read_metrics(run)]


def saved(run: Path) -> int:
    found = steps_in(run / "checkpoints" / "phase1")
    return int(found[-1].name.removeprefix("step-")) if found else 0


def one(run: Path, ranks: int, chance: random.Random, right: list[tuple[int, float]]) -> tuple[bool, str]:
    """Whether all was well after one kill, and its line."""
    new_run(run)
    with launched(run, *WORDS, ranks=ranks, restarts=3, slow_s=SLOW_S) as launch:
        while len(launch.workers()) < ranks:
            time.sleep(0.01)
        is_early = chance.random() < 0.2  # while it starts, loads and joins
        if is_early:
            time.sleep(chance.uniform(0, 4))
        else:
            launch.trains()
            time.sleep(chance.uniform(0, STEPS * SLOW_S))
        rank = chance.randrange(ranks)
        before, logged = saved(run), len(losses(run))
        workers = launch.workers()
        if len(workers) < ranks:
            return True, "ended before the kill"
        os.kill(workers[rank], signal.SIGKILL)
        began = time.monotonic()
        found = launch.end()
    starts = [int(line) for line in launch.began_at.read_text().split()]
    is_well = found.status == 0 and losses(run) == right and starts[-1] >= before
    text = f"rank {rank}  step {logged:2}  checkpoint {before:2}  went on from {starts[-1]:2}"
    return is_well, f"{text}  done after {time.monotonic() - began:4.1f} s  {'well' if is_well else found.err[-2000:]}"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    for name, default in (("kills", 20), ("ranks", 2), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    chance, well = random.Random(given.seed), 0
    with tempfile.TemporaryDirectory() as folder:
        whole = new_run(Path(folder) / "whole")
        assert ended(whole, *WORDS, ranks=given.ranks).status == 0
        for number in range(given.kills):
            is_well, line = one(Path(folder) / f"run{number}", given.ranks, chance, losses(whole))
            well += is_well
            print(f"{number + 1:2}  {line}", flush=True)
    print(
        f"{well} of {given.kills} finished by themselves with nothing lost beyond the last checkpoint, none left behind"
    )
    return 0 if well == given.kills else 1


if __name__ == "__main__":
    raise SystemExit(main())
