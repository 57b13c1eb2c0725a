"""`make chaos`: what the project promises of kills, damage, failing disks and bad numbers, tried in numbers that count.

    python -m bench.chaos [--short] [--seed N] [--minutes M] [--only PART[,PART]]

Prints one table of figures, tries and failures, with an example of every kind of failure; exit code 1 where there is
one. --short takes at most a minute and has a little of everything.
"""

from __future__ import annotations

import argparse
import importlib
import os
import tempfile
from pathlib import Path

from bench.chaos.parts import PARTS, SHORT_STAGES, all_jobs, run_jobs
from bench.chaos.rows import Clock, table
from bench.chaos.stages import NAMES

FULL_S, SHORT_S = 840.0, 45.0
HEAVY = (
    "diffusers.models.autoencoders.autoencoder_kl_cosmos", "torch.utils.tensorboard", "fastdreamer.commands",
    "fastdreamer.demo", "fastdreamer.tools.diagnosis.diagnose", "fastdreamer.envs.record",
    "fastdreamer.evaluation.evaluate",
    "fastdreamer.report.page", "fastdreamer.tools.planning.run_memory", "fastdreamer.tokenizer.fitting.fit",
    "fastdreamer.training.train", "fastdreamer.tokenizer.engines.installed", "fastdreamer.tokenizer.acting",
    "fastdreamer.training.pixel_decoder", "fastdreamer.encoding.pipeline", "crafter",
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
    clock = Clock(seconds)
    jobs = [job for job in all_jobs(given.short) if job.part in chosen]
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
        os.chdir(folder)
        warm_up()
        rows = run_jobs(jobs, Path(folder), SHORT_STAGES if given.short else NAMES, clock, given.seed, given.short)
        os.chdir("/")
    print(table(rows, given.seed))
    return 1 if any(row.failures for row in rows) else 0


def warm_up() -> None:
    """What every forked child needs, imported once; nothing of torch is run here, or its threads would be missed."""
    os.environ["OMP_NUM_THREADS"] = "1"
    for name in HEAVY:
        importlib.import_module(name)


if __name__ == "__main__":
    raise SystemExit(main())
