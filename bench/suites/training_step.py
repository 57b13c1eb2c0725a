"""One optimisation step of each phase of a preset: milliseconds, share of the matrix rate, and peak memory.

    PYTHONPATH=.:kernels:engines python -m bench.suites training_step [--device cuda|cpu] [--config minerl_cosmos]
        [--memory-gb 12] [--phases 1,2,3] [--arms eager,compiled,naive] [--crops 4,8,16] [--out FILE] [overrides]

Random weights and made-up episodes, which lie where the phase trains; a step is draw, loss, backward, clipping,
optimisers and average, as in training. Arms are measured one after another, each alone in memory: `eager`, `compiled`
(phase 3: captured too, where the configuration says so), and for phase 1 `naive`, bench/naive's plain PyTorch with
AdamW, always in one piece. With --crops phase 1 also takes batches of those sizes in one piece, up to the first that
does not fit. On a GPU minerl_cosmos, to bench/results/<GPU>-training-step.json; on a CPU debug in eager, printed
alone. Not a gate.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache

import torch
from torch.utils.flop_counter import FlopCounterMode

from bench.naive.arms import build, naive_step
from bench.phases import Optimisation, made_up_phase
from bench.suites.command import ALL, fresh_peaks, known, numbers, options, peaks, prepare, reason_of, words
from bench.suites.results import Measured, at_least, at_most, table
from fastdreamer.config import Config
from fastdreamer.device import Backend
from fastdreamer.dynamics.attention import Attention

ARMS = ("eager", "compiled", "naive")
MEMORY_GIB = 10.5  # what each phase of minerl_cosmos may reserve on a GPU of 12 GB
SIZES = (4, 8, 16, 32, 64)


@dataclass(frozen=True)
class StepRow(Measured):
    """One arm at one phase and batch; times are of an optimisation step, `speedup` is over `eager` of the same row.

    Attributes:
        phase: 1, 2 or 3.
        crops: crops of the batch (dreams in phase 3); `micro_batches`: the number in which it went through.
        ms_per_step: median, and `noise` is its own; `host_ms`: processor time of all threads.
        steps_per_s: its inverse.
        mfu: model FLOPs of phase 1 over the time and the matrix rate of the run's precision; 0 elsewhere.
        allocated_bytes, reserved_bytes: torch's peaks in this arm; 0 on a CPU.
    """

    phase: int = 0
    crops: int = 0
    micro_batches: int = 0
    ms_per_step: float = 0.0
    host_ms: float = 0.0
    steps_per_s: float = 0.0
    mfu: float = 0.0
    allocated_bytes: int = 0
    reserved_bytes: int = 0


COLUMNS: dict[str, Callable[[StepRow], str]] = {
    "micro": lambda r: str(r.micro_batches), "ms/step": lambda r: f"{r.ms_per_step:.2f}",
    "noise": lambda r: f"{r.noise:.2f}", "host ms": lambda r: f"{r.host_ms:.2f}",
    "steps/s": lambda r: f"{r.steps_per_s:.2f}", "x eager": lambda r: f"{r.speedup:.2f}",
    "MFU %": lambda r: f"{100 * r.mfu:.1f}", "alloc GiB": lambda r: f"{r.allocated_bytes / 2**30:.2f}",
    "reserved": lambda r: f"{r.reserved_bytes / 2**30:.2f}",
}  # fmt: skip


def crop_flops(config: Config, backend: Backend) -> tuple[int, int]:
    """Model FLOPs that a flow crop and a bootstrap crop add to phase 1: forward, backward, half-steps where there are.

    What a step does once, however many crops it has (registers in the first block), is left out. Counted on the eager
    step with attention as plain products: a fused backward pass computes its scores again, and a recomputed block its
    forward pass, neither of which is counted. A step's FLOPs are the sum over its crops.
    """
    eager, found = replace(backend, compiles=False), []
    for share, crops in ((0.0, 1), (0.0, 2), (1.0, 1), (1.0, 2)):
        one = replace(
            config,
            forcing=replace(config.forcing, boot_fraction=share),
            phase1=replace(config.phase1, batch_size=crops, recompute=False),
        )
        phase = made_up_phase(one, 1, eager)
        for module in phase.model.modules():
            if isinstance(module, Attention):
                module.is_fused = False
        # Look-ups count nothing, and the counter's hooks fail on their gradient's tensors inside the half-steps.
        phase.model.get_submodule("world.tokens.actions").requires_grad_(False)
        work = phase.draw()
        with FlopCounterMode(display=False) as counter:
            with eager.autocast():
                loss, _ = phase.loss(work, 0)
            loss.backward()
        found.append(counter.get_total_flops())
    return found[1] - found[0], found[3] - found[2]


class Bench:
    """The phases of one configuration on one device; `rate` is the matrix rate in FLOP/s."""

    def __init__(self, config: Config, backend: Backend, rate: float, repeats: int) -> None:
        self.config, self.backend, self.rate, self.repeats = config, backend, rate, repeats
        self.eager_s: dict[tuple[int, int], float] = {}
        self.crop_flops = cache(lambda: crop_flops(config, backend))

    def row(self, phase: int, arm: str, crops: int = 0) -> StepRow:
        """One arm at the configured batch, or at `crops` in one piece; what fails says why."""
        print(f"measuring phase {phase}, {arm}{f', {crops} crops in one piece' if crops else ''}", flush=True)
        config = self._config(phase, arm, crops)
        count = config.phase(phase).batch_size
        steps = config.imagination.horizon if phase == 3 else config.dynamics.window
        title = f"phase {phase} {self.backend.precision} {count} x {steps}"
        home = "warm" if self.backend.device.type == "cuda" else "host"
        row = StepRow(title, arm, home, phase=phase, crops=count)
        fresh_peaks()
        try:
            return self._measured(row, config, bool(crops))
        except Exception as error:  # compilers raise anything, and the other rows are worth having
            return replace(row, reason=reason_of(error))

    def _config(self, phase: int, arm: str, crops: int) -> Config:
        config = self.config
        if arm == "eager":
            config = replace(config, imagination=replace(config.imagination, capture="off"))
        if crops:
            train = replace(config.phase(phase), batch_size=crops, micro_batch=0)
            config = config.with_phase(phase, train)
        return config

    def _measured(self, row: StepRow, config: Config, is_whole: bool) -> StepRow:
        torch._dynamo.reset()  # or many shapes of one function reach its limit of compiles
        step, optimisation = self._step(row, config)
        for _ in range(3):  # compiling, memory of the optimisers
            step()
        if is_whole and optimisation is not None and optimisation.micro_batches.is_halved:
            return replace(row, reason="does not fit in one piece")
        walls, hosts = [], []
        for _ in range(self.repeats):
            began, host = time.perf_counter(), time.process_time()
            step()
            if self.backend.device.type == "cuda":
                torch.cuda.synchronize()
            walls.append(time.perf_counter() - began)
            hosts.append(time.process_time() - host)
        allocated, reserved = peaks()
        seconds, flops = statistics.median(walls), 0
        if row.phase == 1:
            flow, boot = self.crop_flops()
            share = config.forcing.boot_fraction
            flops = round(row.crops * config.phase1.accumulate * ((1 - share) * flow + share * boot))
        if row.arm == "eager":
            self.eager_s[row.phase, row.crops] = seconds
        micro_batches = optimisation.micro_batches.micro_batches if optimisation is not None else 1
        return replace(
            row, median_us=1e6 * seconds, ms_per_step=1e3 * seconds, host_ms=1e3 * statistics.median(hosts),
            noise=1.2533 * statistics.stdev(walls) / math.sqrt(len(walls)) / seconds, steps_per_s=1 / seconds,
            flops=flops, mfu=flops / seconds / self.rate, allocated_bytes=allocated, reserved_bytes=reserved,
            speedup=self.eager_s.get((row.phase, row.crops), 0.0) / seconds, micro_batches=micro_batches,
        )  # fmt: skip

    def _step(self, row: StepRow, config: Config) -> tuple[Callable[[], object], Optimisation | None]:
        if row.arm == "naive":
            return naive_step(build(config, self.backend.device), self.backend), None
        backend = replace(self.backend, compiles=row.arm == "compiled")
        train = config.phase(row.phase)
        optimisation = Optimisation(made_up_phase(config, row.phase, backend), train, backend)
        return optimisation.step, optimisation

    def rows(self, phases: Sequence[int], arms: Sequence[str], sizes: Sequence[int]) -> Iterator[StepRow]:
        """The configured batches of every phase, then phase 1's sizes up to the first that does not fit."""
        for phase in phases:
            for arm in arms:
                if arm != "naive" or phase == 1:
                    yield self.row(phase, arm)
        for arm in (arm for arm in arms if arm != "naive" and 1 in phases):
            for crops in sorted(sizes):
                row = self.row(1, arm, crops)
                yield row
                if row.reason:
                    break


def verdicts(rows: Sequence[StepRow], device: str, memory_gb: float) -> list[str]:
    """What is promised at the configured batches: phase 1 over naive, compiled over eager, a 12 GB GPU's memory.

    And the largest batch of phase 1 that went through in one piece.
    """
    found: dict[tuple[int, str], StepRow] = {}
    for row in rows:
        found.setdefault((row.phase, row.arm), row)  # the configured batch comes first
    good = {key: row for key, row in found.items() if not row.reason}
    lines = []
    for (phase, arm), row in good.items():
        eager = good.get((phase, "eager"))
        ours = good.get((phase, "compiled"), eager)
        if arm == "naive" and ours is not None:
            lines.append(_ratio(f"phase 1, naive over {ours.arm}", row, ours, 1.3 if device == "cpu" else 2.0))
        elif arm == "compiled" and eager is not None:
            lines.append(_ratio(f"phase {phase}, eager over compiled", eager, row, 1.0))
    if device == "cuda" and memory_gb:
        for (phase, arm), row in good.items():
            if arm != "naive":
                lines.append(at_most(f"phase {phase}, {arm}, reserved GiB", row.reserved_bytes / 2**30, MEMORY_GIB))
    for arm in ("eager", "compiled"):
        fits = [r.crops for r in rows if r.phase == 1 and r.arm == arm and not r.reason and r.micro_batches == 1]
        if fits:
            lines.append(f"largest phase-1 batch in one piece, {arm}: {max(fits)} of those asked for")
    return lines


def _ratio(name: str, slow: StepRow, fast: StepRow, least: float) -> str:
    value = slow.ms_per_step / fast.ms_per_step
    return at_least(name, value, least, value * math.hypot(slow.noise, fast.noise))


OPTIONS = options(
    *ALL,
    phases={"type": numbers, "help": "1,2,3"},
    arms={"type": words, "help": ",".join(ARMS)},
    crops={"type": numbers, "help": f"batches of phase 1; on a GPU {','.join(map(str, SIZES))}"},
)


def run(chosen: argparse.Namespace) -> None:
    """Measure and print."""
    is_gpu = chosen.device == "cuda"
    known("arms", chosen.arms, ARMS)
    known("phases", chosen.phases, (1, 2, 3))
    arms = chosen.arms or (list(ARMS) if is_gpu else ["eager", "naive"])
    setup = prepare(chosen, "minerl_cosmos" if is_gpu else "debug", "compiled" in arms)
    bench = Bench(setup.config, setup.backend, setup.probes["matmul_flop_per_s"], repeats=10 if is_gpu else 7)
    rows = setup.saved(bench.rows(chosen.phases or (1, 2, 3), arms, chosen.crops or (SIZES if is_gpu else ())))
    print(*setup.lines(), table(rows, COLUMNS), *verdicts(rows, chosen.device, chosen.memory_gb), sep="\n")
