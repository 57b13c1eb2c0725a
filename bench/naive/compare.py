"""How much faster than plain PyTorch? Both arms in one process, on the same weights, batch and noise.

    PYTHONPATH=.:kernels:engines python -m bench.naive [PRESET] [section.key=value ...]

Prints the median times of a phase-1 optimisation step and of a rollout, ours beside the naive one in the order ABBA,
and what a step of our cached rollout costs at several horizons. Both arms run in fp32 unless `precision` says bf16.
Nothing is timed unless both arms give the same numbers first. Not a gate.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace

import torch

from bench.naive.arms import Dream, Work, build, naive_dream, naive_step, our_dream, our_step, with_band
from bench.probe import machine
from bench.row import Arm
from bench.timing import Paired, paired
from fastdreamer.device import choose_device
from fastdreamer.errors import UserError
from fastdreamer.settings import load_config

DEFAULTS = (
    "phase1.optimizer=adamw",
    "imagination.horizon=15",
    "imagination.start_context=1",
    "phase3.batch_size=16",  # dreams
)
HORIZONS = (5, 10, 15, 30)


def main(
    preset: str, overrides: Sequence[str], pairs: int = 12, rounds: int = 5, horizons: Sequence[int] = HORIZONS
) -> None:
    """Measures and prints.

    Raises:
        UserError: for an optimiser that the naive arm lacks.
    """
    config = load_config(preset, [*DEFAULTS, *overrides])
    if config.phase1.optimizer != "adamw":
        raise UserError(
            f"phase1.optimizer is {config.phase1.optimizer}; the naive arm has adamw alone: leave it at that"
        )
    backend = choose_device(replace(config, precision="fp32") if config.precision == "auto" else config)
    work = build(config, backend.device)
    host, size = machine(), sum(p.numel() for p in work.world.parameters())
    print(f"{preset}: {size:,} parameters, {backend}, {host['processor']}, commit {host['commit']}")
    check(work)

    precision, horizon = backend.precision, config.imagination.horizon
    print(f"{'':44}{'ours ms':>10}{'naive ms':>10}{'ratio':>8}{'error':>8}{'pairs':>7}")
    ours, naive = our_step(work, precision), naive_step(work, precision)
    name = f"phase-1 step, {config.phase1.batch_size} x {config.dynamics.window}, boot share"
    boot = float(work.levels.is_boot.float().mean())
    print(line(f"{name} {boot:.2f}", paired(Arm(lambda _: ours()), Arm(lambda _: naive()), pairs)), flush=True)
    cached, plain = our_dream(work, precision), naive_dream(work, precision)
    pair = paired(Arm(lambda _: cached(horizon)), Arm(lambda _: plain(horizon)), pairs, warmup=1)
    print(line(f"rollout, {len(work.starts.latents)} dreams, H = {horizon}", pair), flush=True)

    banded = with_band(work)
    print(f"our rollout at context {banded.config.dynamics.context}, {rounds} rounds:")
    times = seconds_by_horizon(our_dream(banded, precision), horizons, rounds)
    for h in horizons:
        print(f"  H = {h:<4}{1e3 * statistics.median(row[h] for row in times) / h:8.2f} ms a step")
    whole, whole_error = slope([{h: 1e3 * s for h, s in row.items()} for row in times])
    change, change_error = slope([{h: 1e3 * s / h for h, s in row.items()} for row in times])
    print(f"  time over H: {whole:.2f} +- {whole_error:.2f} ms a step")
    print(f"  cost of a step over H: {change:+.4f} +- {change_error:.4f} ms a step for each step of horizon")


def line(name: str, pair: Paired) -> str:
    """A row of the table; the error is the ratio's standard error."""
    times = f"{1e3 * pair.seconds_a:10.1f}{1e3 * pair.seconds_b:10.1f}"
    return f"{name:44}{times}{pair.ratio:8.2f}{pair.ratio * pair.error:8.2f}{pair.pairs:7}"


def check(work: Work, horizon: int = 3) -> None:
    """Compares both arms in fp32: losses of the first two steps, and a short rollout.

    Raises:
        RuntimeError: if they differ by more than rounding.
    """
    ours, naive = our_step(work, "fp32"), naive_step(work, "fp32")
    for number in range(2):
        a, b = float(ours()), float(naive())
        if not math.isclose(a, b, rel_tol=1e-3):
            raise RuntimeError(f"phase-1 losses differ at step {number}: ours {a}, naive {b}")
    dream, plain = our_dream(work, "fp32")(horizon), naive_dream(work, "fp32")(horizon)
    apart = float((dream.latents - plain.latents).abs().max())
    if apart > 1e-3 or not torch.equal(dream.actions, plain.actions):
        raise RuntimeError(f"rollouts differ: latents by {apart}")
    print(f"both arms agree: loss {a:.6f} and {b:.6f} after a step, latents of {horizon} steps within {apart:.0e}")


def seconds_by_horizon(dream: Dream, horizons: Sequence[int], rounds: int) -> list[dict[int, float]]:
    """Seconds of a rollout at each horizon, a dict a round; every second round runs backwards, against drift."""
    dream(horizons[0])
    found = []
    for number in range(rounds):
        row = {}
        for horizon in horizons if number % 2 == 0 else horizons[::-1]:
            began = time.perf_counter()
            float(dream(horizon).rewards.sum())  # waits for a card
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
