"""How much faster than plain PyTorch, and than what others do? All arms in one process, on the same batch and noise.

    PYTHONPATH=.:kernels:engines python -m bench.suites naive [--config crafter] [--compile] [section.key=value ...]

Prints the median times of a phase-1 optimisation step and of rollouts, ours beside the naive ones in the order ABBA:
the same mathematics written plainly, a step as the fastest public implementation takes it (`bench.naive.public`: its
own network, of as many parameters), rollouts without a cache and with one that grows by concatenation, what a step of
our program costs at several horizons, and whether what is promised holds. With --compile also the
compiled step and the compiled program beside the eager ones (minutes). Arms run in
fp32 unless `precision` says bf16. Nothing is timed unless all arms give the same numbers first. Not a gate.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace

import torch

from bench.naive.arms import (
    KINDS,
    ImaginedRollout,
    NaivePhase,
    Step,
    build,
    naive_imagination,
    naive_step,
    our_imagination,
    our_step,
    public_step,
    with_band,
)
from bench.suites.command import PAPERS, numbers, options
from bench.suites.results import at_least, at_most
from bench.timing import Arm, Paired, machine, paired
from fastdreamer.config import load_config
from fastdreamer.device import Backend, choose_device
from fastdreamer.errors import UserError

DEFAULTS = (
    *PAPERS,
    "phase1.optimizer=adamw",
    "imagination.horizon=15",
    "imagination.start_context=1",
    "phase3.batch_size=16",  # dreams
)
HORIZONS = (5, 10, 15, 30)
PAIRS, ROUNDS = 12, 5
HEADER = f"{'':48}{'ours ms':>10}{'other ms':>10}{'ratio':>8}{'error':>8}{'pairs':>7}"


OPTIONS = options(
    "device", "config", "overrides",
    compile={"action": "store_true", "help": "the compiled step and program too"},
    pairs={"type": int, "default": PAIRS, "help": "timings of each arm"},
    rounds={"type": int, "default": ROUNDS, "help": "over the horizons"},
    horizons={"type": numbers, "default": HORIZONS, "help": "of the program: 5,10,15,30"},
)  # fmt: skip


def run(chosen: argparse.Namespace) -> None:
    """Run the command."""
    if min(chosen.pairs, chosen.rounds, len(chosen.horizons)) < 2:
        raise UserError("give --pairs of 2 or more, --rounds of 2 or more, and two --horizons or more")
    overrides = [f"device={chosen.device}", *chosen.overrides]
    main(chosen.config or "crafter", overrides, chosen.pairs, chosen.rounds, chosen.horizons, chosen.compile)


def main(
    preset: str,
    overrides: Sequence[str],
    pairs: int = PAIRS,
    rounds: int = ROUNDS,
    horizons: Sequence[int] = HORIZONS,
    compiles: bool = False,
) -> None:
    """Measure and print; UserError for an optimiser that the naive arm lacks, or a compiler that is not there."""
    config = load_config(preset, [*DEFAULTS, *overrides])
    if config.phase1.optimizer != "adamw":
        raise UserError(
            f"phase1.optimizer is {config.phase1.optimizer}; the naive arm has adamw alone: leave it at that"
        )
    precision = "fp32" if config.precision == "auto" else config.precision
    chosen = choose_device(replace(config, precision=precision, compile="on" if compiles else "off"))
    backend = replace(chosen, compiles=False)
    work = build(config, backend.device)
    host, size = machine(), sum(p.numel() for p in work.world.parameters())
    print(f"{preset}: {size:,} parameters, {backend}, {host['processor']}, commit {host['commit']}")
    check(work, backend)
    print(HEADER)
    lines = [*steps(work, backend, pairs), *rollouts(work, backend, pairs)]
    if compiles:
        lines += compiled(work, backend, chosen, pairs)
    print("\n".join([*lines, over_horizons(work, backend, horizons, rounds)]))


def steps(work: NaivePhase, backend: Backend, pairs: int) -> list[str]:
    """The phase-1 step: a row, and what is promised of it."""
    train, boots = work.config.phase1, work.levels.boots
    name = (
        f"phase-1 step, {train.batch_size} x {work.config.dynamics.window}, boot share {boots / train.batch_size:.2f}"
    )
    verdicts = []
    for other, arm, least in (
        ("naive", naive_step, {"cpu": 1.3}.get(backend.device.type, 2.0)),
        ("public", public_step, 1.3),
    ):
        pair = _timed(f"{name}, {other}", our_step(work, backend), arm(work, backend), pairs)
        verdicts.append(at_least(f"{name}, {other} over ours", pair.ratio, least, pair.ratio * pair.error))
    return verdicts


def rollouts(work: NaivePhase, backend: Backend, pairs: int) -> list[str]:
    """A rollout of every kind of ours: rows, and what is promised of the cache on a CPU."""
    pairs = max(2, pairs // 2)  # the naive rollout takes long
    horizon, naive, verdicts = work.config.imagination.horizon, naive_imagination(work, backend), []
    for kind in KINDS:
        ours = our_imagination(work, backend, kind, [horizon])
        name = f"rollout, {kind}, {len(work.starts.latents)} dreams, H = {horizon}"
        pair = _timed(name, ours, naive, pairs, horizon)
        if backend.device.type == "cpu":
            verdicts.append(at_least(f"{name}, naive over ours", pair.ratio, 3.0, pair.ratio * pair.error))
    pair = _timed(f"{name}, cached", ours, naive_imagination(work, backend, has_cache=True), pairs, horizon)
    return [*verdicts, at_least(f"{name}, concatenating cache over ours", pair.ratio, 3.0, pair.ratio * pair.error)]


def compiled(work: NaivePhase, backend: Backend, compiling: Backend, pairs: int) -> list[str]:
    """The compiled step and the compiled program over the eager ones: rows, and that compiling does not slow down."""
    horizon = work.config.imagination.horizon
    pair = _timed("compiled phase-1 step, eager", our_step(work, compiling), our_step(work, backend), pairs)
    fast, slow = (our_imagination(work, place, "merged", [horizon]) for place in (compiling, backend))
    rollout = _timed(f"compiled merged program, eager, H = {horizon}", fast, slow, pairs, horizon)
    cached = naive_imagination(work, backend, has_cache=True)  # compiled, it would be another graph at every step
    beside = _timed(f"compiled merged program, cached, H = {horizon}", fast, cached, pairs, horizon)
    return [
        at_least(f"{name} over compiled", found.ratio, least, found.ratio * found.error)
        for name, found, least in (
            ("phase-1 step, eager", pair, 1.0),
            ("merged program, eager", rollout, 1.0),
            ("merged program, concatenating cache", beside, 3.0),
        )
    ]


def over_horizons(work: NaivePhase, backend: Backend, horizons: Sequence[int], rounds: int) -> str:
    """What a step of the program costs at several horizons, and that it does not grow with them."""
    banded = with_band(work)
    print(f"our program at context {banded.config.dynamics.context}, {rounds} rounds:")
    times = seconds_by_horizon(our_imagination(banded, backend, "program", horizons), horizons, rounds)
    for h in horizons:
        print(f"  H = {h:<4}{1e3 * statistics.median(row[h] for row in times) / h:8.2f} ms a step")
    whole, whole_error = slope([{h: 1e3 * s for h, s in row.items()} for row in times])
    change, error = slope([{h: 1e3 * s / h for h, s in row.items()} for row in times])
    print(f"  time over H: {whole:.2f} +- {whole_error:.2f} ms a step")
    return at_most("cost of a step over H, in ms a step for each step of horizon,", change, 0.0, error)


def _timed(name: str, ours: Step | ImaginedRollout, other: Step | ImaginedRollout, pairs: int, *given: int) -> Paired:
    pair = paired(Arm(lambda _: ours(*given)), Arm(lambda _: other(*given)), pairs, warmup=1)
    print(line(name, pair), flush=True)
    return pair


def line(name: str, pair: Paired) -> str:
    """A row of the table; the error is the ratio's standard error."""
    times = f"{1e3 * pair.seconds_a:10.1f}{1e3 * pair.seconds_b:10.1f}"
    return f"{name:48}{times}{pair.ratio:8.2f}{pair.ratio * pair.error:8.2f}{pair.pairs:7}"


def check(work: NaivePhase, backend: Backend, horizon: int = 3) -> None:
    """Compares the eager arms in fp32: losses of the first two steps, and a short rollout of every kind.

    Raises:
        RuntimeError: if they differ by more than rounding.
    """
    exact = replace(backend, precision="fp32", compiles=False)
    ours, naive = our_step(work, exact), naive_step(work, exact)
    for number in range(2):
        a, b = float(ours()), float(naive())
        if not math.isclose(a, b, rel_tol=1e-3):
            raise RuntimeError(f"phase-1 losses differ at step {number}: ours {a}, naive {b}")
    plain, largest = naive_imagination(work, exact)(horizon), 0.0
    for kind in (*KINDS, "cached"):
        arm = (
            naive_imagination(work, exact, True) if kind == "cached" else our_imagination(work, exact, kind, [horizon])
        )
        rollout = arm(horizon)
        apart = float((rollout.latents - plain.latents).abs().max())
        if not apart <= 1e-3 or not torch.equal(rollout.actions, plain.actions):
            raise RuntimeError(f"rollouts differ: latents of {kind} by {apart}")
        largest = max(largest, apart)
    print(f"all arms agree: loss {a:.6f} and {b:.6f} after a step, latents of {horizon} steps within {largest:.0e}")


def seconds_by_horizon(rollout: ImaginedRollout, horizons: Sequence[int], rounds: int) -> list[dict[int, float]]:
    """Seconds of a rollout at each horizon, a dict a round; every second round runs backwards, against drift."""
    rollout(horizons[0])
    found = []
    for number in range(rounds):
        row = {}
        for horizon in horizons if number % 2 == 0 else horizons[::-1]:
            began = time.perf_counter()
            float(rollout(horizon).rewards.sum())  # waits for a GPU
            row[horizon] = time.perf_counter() - began
        found.append(row)
    return found


def slope(rows: Sequence[dict[int, float]]) -> tuple[float, float]:
    """Slope of y over x and its standard error, by least squares with a constant of its own for each row."""
    points = [(x - statistics.fmean(row), y - statistics.fmean(row.values())) for row in rows for x, y in row.items()]
    spread = sum(x * x for x, _ in points)
    found = sum(x * y for x, y in points) / spread
    left = sum((y - found * x) ** 2 for x, y in points)
    free = len(points) - len(rows) - 1
    return found, math.sqrt(left / free / spread) if free > 0 else math.inf
