"""Milliseconds of an imagined step by every way of running it, against the floor that the weights' bytes set.

    PYTHONPATH=.:kernels:engines python -m bench.suites imagination [--device cuda|cpu] [--config minerl_cosmos]
        [--memory-gb 12] [--rollouts 1,64,256] [--arms plain,...] [--out FILE] [section.key=value ...]

A whole rollout is timed, from the real crops to its rewards, and divided by its horizon; every arm in turns with
`rollout.imagine` on the same random weights. On a GPU minerl_cosmos at 1, 64 and 256 dreams, to
bench/results/<GPU>-imagination.json; on a CPU the debug preset at 1 and 8, printed alone. Not a gate.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import nn

from bench.count import count
from bench.phases import loader_of, models
from bench.suites.command import ALL, fresh_peaks, known, numbers, options, peaks, prepare, reason_of, words
from bench.suites.results import Measured, at_least, table
from bench.timing import Arm, paired
from fastdreamer.config import Config
from fastdreamer.device import Backend
from fastdreamer.dynamics.world_model import WorldModel
from fastdreamer.imagination.program import Program
from fastdreamer.imagination.rollout import Rollout, imagine
from fastdreamer.latents.batch import Batch

ImaginedRollout = Callable[[Batch], Rollout]


@dataclass(frozen=True)
class How:
    """One way of running a rollout; `is_plain` is `rollout.imagine`, which the others are compared with."""

    is_plain: bool = False
    merges: bool = False
    compiles: bool = False
    captures: str = "off"


ARMS = {
    "plain": How(is_plain=True),
    "program": How(),
    "merged": How(merges=True),
    "compiled": How(merges=True, compiles=True),
    "captured": How(merges=True, captures="step"),
    "captured-horizon": How(merges=True, captures="horizon"),
    "compiled-captured": How(merges=True, compiles=True, captures="step"),
    "compiled-horizon": How(merges=True, compiles=True, captures="horizon"),
}


@dataclass(frozen=True)
class RolloutRow(Measured):
    """One arm at one number of rollouts; times, bytes and launches are of a step, `speedup` is over `plain`.

    Attributes:
        rollouts: sequences at once.
        ms_per_step: a rollout's time over its horizon; `floor_ms`: the weights' bytes at the copy's bandwidth.
        allocated_bytes, reserved_bytes: torch's peaks in this arm, models included; 0 on a CPU.
    """

    rollouts: int = 0
    ms_per_step: float = 0.0
    floor_ms: float = 0.0
    allocated_bytes: int = 0
    reserved_bytes: int = 0


COLUMNS: dict[str, Callable[[RolloutRow], str]] = {
    "ms/step": lambda r: f"{r.ms_per_step:.3f}", "floor": lambda r: f"{r.floor_ms:.3f}",
    "% floor": lambda r: f"{100 * r.copy_share:.1f}", "x plain": lambda r: f"{r.speedup:.2f}",
    "noise": lambda r: f"{r.noise:.2f}", "alloc GiB": lambda r: f"{r.allocated_bytes / 2**30:.2f}",
    "reserved": lambda r: f"{r.reserved_bytes / 2**30:.2f}", "launches": lambda r: f"{r.launches or ''}",
}  # fmt: skip


def weight_bytes(world: WorldModel, precision: str) -> int:
    """What a pass reads of the weights: all but embedding tables, products in the run's precision, the rest in fp32."""
    total = 0
    for module in world.modules():
        own = sum(p.numel() for p in module.parameters(recurse=False))
        if not isinstance(module, nn.Embedding):
            total += own * (2 if precision == "bf16" and isinstance(module, nn.Linear) else 4)
    return total


class Bench:
    """One configuration's models on one device; `bandwidth` is the copy's, in bytes a second."""

    def __init__(self, config: Config, backend: Backend, bandwidth: float, pairs: int) -> None:
        self.config, self.backend, self.bandwidth, self.pairs = config, backend, bandwidth, pairs
        world, agent = models(config, backend.device)
        self.world, self.agent = world.eval().requires_grad_(False), agent.eval().requires_grad_(False)
        self.weights = weight_bytes(world, backend.precision)

    def row(self, name: str, rollouts: int) -> RolloutRow:
        """Builds and times an arm; what fails says why."""
        print(f"measuring {name} at {rollouts} dreams", flush=True)
        how, steps = ARMS[name], self.config.forcing.sample_steps
        floor = self.weights * (steps + bool(self.agent.agent_tokens))  # else a commit can ride with the next pass
        cache = "warm" if self.backend.device.type == "cuda" else "host"
        title, least = f"imagination {self.backend.precision} {rollouts} dreams", 1e3 * floor / self.bandwidth
        row = RolloutRow(title, name, cache, floor_bytes=floor, rollouts=rollouts, floor_ms=least)
        fresh_peaks()
        try:
            return self._measured(row, how, rollouts)
        except Exception as error:  # compilers and captures raise anything, and the other rows are worth having
            return replace(row, reason=reason_of(error))

    def _measured(self, row: RolloutRow, how: How, rollouts: int) -> RolloutRow:
        horizon = self.config.imagination.horizon
        starts = self._starts(rollouts)
        rollout = self._rollout(how, rollouts, horizon)
        for _ in range(2):
            rollout(starts)
        allocated, reserved = peaks()
        launches = None
        if how.captures == "off" and not how.compiles:
            launches = self._launches(how, rollouts, 2) - self._launches(how, rollouts, 1)
        reference = self._rollout(ARMS["plain"], rollouts, horizon)
        pair = paired(Arm(lambda _: reference(starts)), Arm(lambda _: rollout(starts)), self.pairs, warmup=1)
        seconds = pair.seconds_b / horizon
        return replace(
            row, median_us=1e6 * seconds, ms_per_step=1e3 * seconds, launches=launches, speedup=1 / pair.ratio,
            copy_share=row.floor_bytes / seconds / self.bandwidth, noise=pair.error, allocated_bytes=allocated,
            reserved_bytes=reserved,
        )  # fmt: skip

    def _rollout(self, how: How, rollouts: int, horizon: int) -> ImaginedRollout:
        generator = torch.Generator(self.backend.device).manual_seed(self.config.seed)
        if how.is_plain:

            def plain(starts: Batch) -> Rollout:
                with self.backend.autocast():
                    return imagine(self.world, self.agent, starts, horizon, generator)

            return plain
        torch._dynamo.reset()  # or many programs of one function reach its limit of compiles
        context, backend = self.config.imagination.start_context, replace(self.backend, compiles=how.compiles)
        return Program(self.world, self.agent, rollouts, context, horizon, backend, generator, how.merges, how.captures)

    def _launches(self, how: How, rollouts: int, horizon: int) -> int:
        rollout, starts = self._rollout(how, rollouts, horizon), self._starts(rollouts)
        with count() as counts:
            rollout(starts)
        return counts.launches

    def _starts(self, rollouts: int) -> Batch:
        config = replace(self.config, phase3=replace(self.config.phase3, batch_size=rollouts))
        return loader_of(config, 3, self.backend.device).draw()


def verdicts(rows: list[RolloutRow]) -> list[str]:
    """What is promised on a GPU: the captured step over the same region uncaptured, at every number of rollouts."""
    found = {(row.rollouts, row.arm): row for row in rows if not row.reason}
    lines = []
    for rollouts in dict.fromkeys(row.rollouts for row in rows):
        eager, captured = found.get((rollouts, "merged")), found.get((rollouts, "captured"))
        if eager and captured:
            value = eager.ms_per_step / captured.ms_per_step
            lines.append(at_least(f"captured step over eager at {rollouts} dreams", value, 2.0))
    return lines


OPTIONS = options(
    *ALL,
    rollouts={"type": numbers, "help": "sequences at once: 1,64,256"},
    arms={"type": words, "help": ",".join(ARMS)},
)


def run(chosen: argparse.Namespace) -> None:
    """Measure and print."""
    is_gpu = chosen.device == "cuda"
    known("arms", chosen.arms, ARMS)
    arms = chosen.arms or (list(ARMS) if is_gpu else ["plain", "program", "merged"])
    compiles = any(ARMS[name].compiles for name in arms)
    setup = prepare(chosen, "minerl_cosmos" if is_gpu else "debug", compiles)
    bench = Bench(setup.config, setup.backend, setup.probes["copy_bytes_per_s"], pairs=12 if is_gpu else 6)
    rollouts = chosen.rollouts or ([1, 64, 256] if is_gpu else [1, 8])
    rows = setup.saved(bench.row(name, number) for number in rollouts for name in arms)
    print(*setup.lines(), table(rows, COLUMNS), *verdicts(rows), sep="\n")
