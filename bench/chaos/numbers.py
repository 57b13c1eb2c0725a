"""Numbers that are not finite and memory that runs out, in every phase; and ten thousand steps that stay flat."""

from __future__ import annotations

import json
import os
import resource
import statistics
import time
from pathlib import Path
from typing import Any

from bench.chaos.children import Child
from bench.chaos.faults import unclear
from bench.chaos.rows import Clock, Row
from bench.chaos.stages import SMALL, Bench

STEPS, SHORT_STEPS = 10_000, 200
GROWS_MB = 8.0  # of allocators that settle
LONG = (
    "dynamics.dim=8", "dynamics.heads=1", "dynamics.layers=2", "dynamics.registers=0", "dynamics.window=2",
    "dynamics.context=2", "imagination.horizon=1", "phase1.batch_size=1", "phase1.log_every=20",
    "data.recordings=/nonexistent",
)  # fmt: skip


def bad_numbers(bench: Bench, phase: int, clock: Clock, limit: int) -> Row:
    """Out of memory, one loss that is not finite, and nothing but such losses, at every step of a phase."""
    stage, began, failures, tries = f"phase{phase}", time.monotonic(), list[str](), 0
    for step in range(4 if phase == 3 else 6):
        for kind in ("memory", "one nan", "nan"):
            if clock.is_over or tries >= limit:
                break
            tries += 1
            failures += [f"{kind} at step {step + 1}: {text}" for text in _try(bench, stage, phase, kind, step)]
    note = "out of memory; one nan; nan from then on"
    return Row("numbers", stage, tries, failures, note, time.monotonic() - began)


def _try(bench: Bench, stage: str, phase: int, kind: str, step: int) -> list[str]:
    bench.restore(stage)
    ended = Child(lambda: _spoilt(bench, stage, phase, kind, step)).end(60.0)
    wrong = unclear(ended)
    if wrong:
        return [wrong]
    if kind == "one nan" and ended.code:
        return [f"a single step stops it: {ended.last_line}"]
    if kind == "memory" and ended.code == 0:
        return ["it ends well without its memory"]
    if kind == "memory":
        return bench.again(stage)
    trouble = Child(lambda: _all_finite(bench.run / "checkpoints" / stage)).end()
    return [trouble.last_line] if trouble.code else []


def _spoilt(bench: Bench, stage: str, phase: int, kind: str, step: int) -> None:
    """The stage with a loss that fails from a step on."""
    import torch

    from fastdreamer.training.agent import AgentPhase
    from fastdreamer.training.imagine import ImaginationPhase
    from fastdreamer.training.world_model import WorldModelPhase

    owner: Any = {1: WorldModelPhase, 2: AgentPhase, 3: ImaginationPhase}[phase]
    real = owner.loss

    def loss(self: Any, work: Any, now: int) -> Any:
        if kind == "memory" and now >= step:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        value, sums = real(self, work, now)
        is_bad = now == step if kind == "one nan" else now >= step
        return (value * float("nan") if is_bad else value), sums

    owner.loss = loss
    bench.command(stage)


def _all_finite(folder: Path) -> int:
    from fastdreamer.training.checkpoint import load_checkpoint

    if not folder.is_dir():
        return 0
    for group, tensors in load_checkpoint(folder).tensors.items():
        for name, value in tensors.items():
            if value.is_floating_point() and not bool(value.isfinite().all()):
                print(f"a checkpoint holds {group} {name} that is not finite")
                return 1
    return 0


def flat(folder: Path, clock: Clock, steps: int) -> Row:
    """Phase 1 for so many steps: memory, open files and threads over its second half against its second eighth."""
    began, failures = time.monotonic(), list[str]()
    child = Child(lambda: _long(folder, steps))
    samples: list[tuple[float, int, int]] = []
    while child.is_alive() and not clock.is_over:
        time.sleep(0.1)
        samples += _usage(child.pid)
    is_done = not child.is_alive()
    if not is_done:
        os.kill(child.pid, 9)
    ended = child.end()
    done = _last_step(folder)
    if is_done and ended.code:
        failures.append(f"ends with {ended.code}: {ended.last_line}")
    if len(samples) >= 16:
        early, late = samples[len(samples) // 8 : len(samples) // 4], samples[len(samples) // 2 : -1]
        grown = statistics.median(s[0] for s in late) - statistics.median(s[0] for s in early)
        if grown > GROWS_MB:
            failures.append(f"memory grows by {grown:.1f} MB")
        for place, name in ((1, "open files"), (2, "threads")):
            before, after = (min(sample[place] for sample in some) for some in (early, late))  # a save opens more
            if after > before:
                failures.append(f"{name} grow from {before} to {after}")
        note = f"{grown:+.1f} MB, {late[-1][1]} files, {late[-1][2]} threads"
    else:
        note = "too short to tell"
    return Row("numbers", "steps that stay flat", done, failures, note, time.monotonic() - began)


def _long(folder: Path, steps: int) -> None:
    from fastdreamer.data.actions import action_space
    from fastdreamer.data.synthetic import write_synthetic_store
    from fastdreamer.settings import load_config
    from fastdreamer.training.train import train

    every = max(1, steps // 20)
    config = load_config("debug", [*SMALL, *LONG, f"phase1.steps={steps}", f"phase1.checkpoint_every={every}"])
    write_synthetic_store(folder / "run" / "store", config.tokenizer.clock, action_space("crafter"), 3, 12, 0)
    train(config, folder / "run", 1, draws=False)


def _usage(process: int) -> list[tuple[float, int, int]]:
    """Resident megabytes, open files and threads; nothing where it has just ended."""
    folder = Path(f"/proc/{process}")
    try:
        resident = int((folder / "statm").read_text().split()[1]) * resource.getpagesize() / 1e6
        return [(resident, len(os.listdir(folder / "fd")), len(os.listdir(folder / "task")))]
    except OSError:
        return []


def _last_step(folder: Path) -> int:
    path = folder / "run" / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return int(json.loads(lines[-1])["step"]) if lines else 0
