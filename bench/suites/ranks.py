"""What several processes gain over one on a CPU: an optimisation step under torchrun beside the same step alone.

    PYTHONPATH=.:kernels:engines python -m bench.suites ranks [--config crafter] [--phase 1] [--processes 2]
        [--steps 20] [--rounds 6] [section.key=value ...]

Random weights and made-up episodes. Arms: one process with one thread, one with as many threads as there are processes,
and the processes with a thread each, over gloo. Each is started anew in every round, in turn forwards and backwards,
and its step is the median of --steps after three; ratios are medians over the rounds, with their standard errors.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch

from bench.phases import Optimisation, made_up_phase
from bench.suites.command import options
from bench.timing import machine
from fastdreamer.config import load_config
from fastdreamer.device import choose_device
from fastdreamer.errors import UserError
from fastdreamer.ranks import membership
from fastdreamer.ranks.joining import joined
from fastdreamer.ranks.torchrun import place

ROOT = Path(__file__).parents[2]
WARM_UP = 3

OPTIONS = options(
    "config", "overrides",
    phase={"type": int, "default": 1, "choices": (1, 2, 3), "help": "of training"},
    processes={"type": int, "default": 2, "help": "that share a step"},
    steps={"type": int, "default": 20, "help": "timed in every start"},
    rounds={"type": int, "default": 6, "help": "of all arms"},
    worker={"action": "store_true", "help": argparse.SUPPRESS},
)  # fmt: skip


def run(chosen: argparse.Namespace) -> None:
    """Measure and print."""
    if chosen.worker:
        work(chosen)
        return
    count = chosen.processes
    if min(count, chosen.rounds) < 2 or chosen.steps < 1:
        raise UserError("give --processes and --rounds of 2 or more, and --steps of 1 or more")
    arms = {"1 process, 1 thread": (1, 1), f"1 process, {count} threads": (1, count), f"{count} processes": (count, 1)}
    found: dict[str, list[dict[str, float]]] = {name: [] for name in arms}
    for number in range(chosen.rounds):
        for name in list(arms)[:: -1 if number % 2 else 1]:
            found[name].append(started(chosen, *arms[name]))
    host = machine()
    print(f"{chosen.config or 'crafter'}, phase {chosen.phase}: {host['processor']}, commit {host['commit']}")
    *alone, together = found
    for name, rows in found.items():
        print(f"{name:24}{1e3 * statistics.median(row['seconds'] for row in rows):9.1f} ms a step")
    for name in alone:
        logs = [math.log(a["seconds"] / b["seconds"]) for a, b in zip(found[name], found[together], strict=True)]
        ratio, error = math.exp(statistics.median(logs)), 1.2533 * statistics.stdev(logs) / math.sqrt(len(logs))
        print(f"{together} against {name}: {ratio:.2f} +- {ratio * error:.2f} times as fast ({len(logs)} rounds)")
    row = found[together][-1]
    print(f"{row['calls']:g} calls of collectives a step, {row['bytes']:,.0f} bytes given to them by each process")


def started(chosen: argparse.Namespace, processes: int, threads: int) -> dict[str, float]:
    """One arm in processes of its own: seconds of a step, and calls and bytes of collectives in it.

    Raises:
        UserError: where it fails, with what it said last.
    """
    launch = ["torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", "-m"] if processes > 1 else []
    words = ["--worker", f"--config={chosen.config}", f"--phase={chosen.phase}", f"--steps={chosen.steps}"]
    path = os.pathsep.join(str(ROOT / name) for name in (".", "kernels", "engines"))
    done = subprocess.run(
        [sys.executable, "-m", *launch, "bench.suites", "ranks", *words, *chosen.overrides],
        capture_output=True, text=True, env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": f"{threads}"},
    )  # fmt: skip
    if done.returncode:
        raise UserError(f"{processes} processes with {threads} threads: {done.stderr.strip()[-500:]}")
    row: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return row


def work(chosen: argparse.Namespace) -> None:
    """What every process of an arm does; the main one prints a line of JSON."""
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    if place().world > 1:
        membership.join(joined)
    try:
        config = load_config(chosen.config or "crafter", ["device=cpu", "compile=off", *chosen.overrides])
        backend, ranks = choose_device(config), membership.current()
        torch.manual_seed(config.seed)
        optimisation = Optimisation(
            made_up_phase(config, chosen.phase, backend), config.phase(chosen.phase), backend, config.seed
        )
        ranks.begin({}, config.ranks.timeout_s, 0, backend.device)
        sums, seconds = getattr(ranks, "sums", None), []
        before = (0, 0)
        for _ in range(WARM_UP + chosen.steps):
            before = (sums.calls, sums.bytes) if sums is not None else before
            began = time.perf_counter()
            optimisation.step()
            seconds.append(time.perf_counter() - began)
        calls, given = (sums.calls - before[0], sums.bytes - before[1]) if sums is not None else before
        if ranks.is_main:
            print(json.dumps({"seconds": statistics.median(seconds[WARM_UP:]), "calls": calls, "bytes": given}))
    finally:
        membership.leave()
