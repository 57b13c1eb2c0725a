"""Numbers that are not finite and memory that runs out, in every training; and ten thousand steps that stay flat."""

from __future__ import annotations

import itertools
import os
import resource
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from bench.chaos.children import Child
from bench.chaos.endings import NO_DECODER, wrong_end
from bench.chaos.faults import unclear
from bench.chaos.rows import Row
from bench.chaos.stages import SMALL, Bench, Setting
from fastdreamer.config import load_config
from fastdreamer.latents.synthetic import write_synthetic_store
from fastdreamer.recordings.actions import action_space
from fastdreamer.run.checkpoint import load_checkpoint
from fastdreamer.run.metrics import read_metrics
from fastdreamer.tokenizer.fitting import fit
from fastdreamer.training.cloning_phase import AgentPhase
from fastdreamer.training.imagination_phase import ImaginationPhase
from fastdreamer.training.pixel_decoder import DecoderPhase
from fastdreamer.training.train import train
from fastdreamer.training.world_model_phase import WorldModelPhase

STEPS, SHORT_STEPS = 10_000, 200
GROWS_MB = 8.0  # growth of allocators that settle
LONG = (
    "dynamics.dim=8", "dynamics.heads=1", "dynamics.layers=2", "dynamics.registers=0", "dynamics.window=2",
    "dynamics.context=2", "imagination.horizon=1", "phase1.batch_size=1", "phase1.log_every=20",
    "data.recordings=/nonexistent",
)  # fmt: skip


SUBJECTS = {  # what is spoilt, and the stage that it is part of
    "phase1": "phase1", "phase2": "phase2", "phase3": "phase3", "pixel decoder": "phase1",
    "fit-tokenizer": "fit-tokenizer",
}  # fmt: skip
STEPS_OF = {"phase1": 6, "phase2": 6, "phase3": 4, "pixel decoder": 4, "fit-tokenizer": 4}
CHECKPOINTS = {"pixel decoder": "phase0"}


def bad_numbers(given: Setting, what: str) -> Row:
    """Try lack of memory, one loss that is not finite, and nothing but such losses, at every step of a training."""
    failures, tries = list[str](), 0
    for step, kind in itertools.product(range(STEPS_OF[what]), ("memory", "one nan", "nan")):
        if given.clock.is_over or tries >= (3 if given.is_short else 18):
            break
        tries += 1
        failures += [f"{kind} at step {step + 1}: {text}" for text in _try(given.bench, what, kind, step)]
    return Row("numbers", what, tries, failures, "out of memory; one nan; nan from then on")


def _try(bench: Bench, what: str, kind: str, step: int) -> list[str]:
    stage = SUBJECTS[what]
    bench.restore(stage)
    ended = Child(lambda: _spoilt(bench, what, kind, step)).end(60.0)
    wrong = wrong_end(ended) if kind == "memory" else unclear(ended)
    if wrong:
        return [wrong]
    is_dropped = NO_DECODER in ended.text
    if kind == "memory":
        return bench.again(stage) if is_dropped == (what == "pixel decoder") else ["it is not told where it ran out"]
    if kind == "one nan" and (ended.code or is_dropped):
        return [f"a single step stops it: {ended.last_line}"]
    if ended.code and "not finite" not in ended.last_line:
        return [f"it does not say what was wrong: {ended.last_line}"]
    skipped = 1 if kind == "one nan" else None
    trouble = Child(lambda: _unsound(bench, what, skipped, ended.text)).end()
    if trouble.code:
        return [trouble.last_line]
    return bench.again(stage, is_same=False) if ended.code or is_dropped else []  # those steps are behind it


def _spoilt(bench: Bench, what: str, kind: str, step: int) -> None:
    """The stage with a loss that fails from a step on."""

    def spoil(value: torch.Tensor, now: int) -> torch.Tensor:
        is_bad = now == step if kind == "one nan" else now >= step
        if kind == "memory" and is_bad:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return value * float("nan") if is_bad else value

    if what == "fit-tokenizer":
        module: Any = fit
        descend, numbers = module._descend, itertools.count()  # over both descents

        def spoilt(title: str, rates: Any, loss_of: Any, *rest: Any) -> None:
            descend(title, rates, lambda frames: spoil(loss_of(frames), next(numbers)), *rest)

        module._descend = spoilt
    else:
        phases = {"phase1": WorldModelPhase, "phase2": AgentPhase, "phase3": ImaginationPhase}
        owner: Any = phases.get(what, DecoderPhase)
        real = owner.loss

        def loss(self: Any, work: Any, now: int) -> Any:
            value, sums = real(self, work, now)
            return spoil(value, now), sums

        owner.loss = loss
    bench.command(SUBJECTS[what])


def _unsound(bench: Bench, what: str, skipped: int | None, text: str) -> int:
    """Whether what was written holds anything that is not finite, or another number of left out steps; prints it."""
    if what == "fit-tokenizer":
        groups = {path.name: load_file(path) for path in (bench.work / "tokenizer").glob("*.safetensors")}
        is_counted = skipped is None or f"{skipped} of 2 steps left out" in text
    else:
        folder = bench.run / "checkpoints" / CHECKPOINTS.get(what, what)
        if not folder.is_dir():
            return 0
        newest = load_checkpoint(folder)
        groups = newest.tensors
        is_counted = skipped is None or list(newest.state["skipped"])[0] == skipped
    for group, tensors in groups.items():
        for name, value in tensors.items():
            if value.is_floating_point() and not bool(value.isfinite().all()):
                print(f"{what} wrote {group} {name} that is not finite")
                return 1
    if not is_counted:
        print(f"{what} does not say that {skipped} step was left out")
    return 0 if is_counted else 1


def flat(given: Setting) -> Row:
    """Phase 1 for many steps: memory, open files and threads over its second half against its second eighth."""
    failures, folder = list[str](), given.folder
    child = Child(lambda: _long(folder, SHORT_STEPS if given.is_short else STEPS))
    samples: list[tuple[float, int, int]] = []
    is_training = False
    while child.is_alive() and not given.clock.is_over:
        time.sleep(0.1)
        if is_training := is_training or bool(read_metrics(folder / "run")):  # it grows until then, at any pace
            samples += _usage(child.pid)
    is_done = not child.is_alive()
    if not is_done:
        os.kill(child.pid, 9)
    ended = child.end()
    done = max((row["step"] for row in read_metrics(folder / "run")), default=0)
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
    return Row("numbers", "steps that stay flat", done, failures, note)


def _long(folder: Path, steps: int) -> None:
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
