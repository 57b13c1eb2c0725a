"""What several ranks do, for tests to compare with one process: `python acts.py FOLDER ACT ...`, alone or by torchrun.

Every act leaves its findings in FOLDER, in files named after it and the number of ranks.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fastdreamer.config import Config, load_config
from fastdreamer.device import choose_device
from fastdreamer.errors import RanksDiffer, UserError
from fastdreamer.latents.store import LatentStore
from fastdreamer.latents.synthetic import write_synthetic_store
from fastdreamer.ranks import membership
from fastdreamer.ranks.membership import Ranks, current
from fastdreamer.ranks.torchrun import place
from fastdreamer.recordings.actions import action_space
from fastdreamer.run.directory import RunDirectory
from fastdreamer.training.build import build_phase
from fastdreamer.training.imagination_phase import ImaginationPhase
from fastdreamer.training.keeping import Keeper
from fastdreamer.training.optim import RunningScale
from fastdreamer.training.phase import Phase
from fastdreamer.training.step import Skips, Update
from fastdreamer.training.train import train

STEPS = 50
COMMON = (
    "device=cpu", "precision=fp32", "compile=off", "data.recordings=/nonexistent", "forcing.boot_warmup=0",
    "ranks.timeout_s=120", "ranks.check_every=5", "phase2.patience=1",
    *(f"phase{n}.{name}" for n in (1, 2, 3) for name in (f"steps={STEPS}", "log_every=1", "checkpoint_every=20")),
)  # fmt: skip
SIZES = {
    "debug": ("phase1.batch_size=7", "phase2.batch_size=7", "phase3.batch_size=8"),
    "crafter": (
        "phase1.batch_size=6", "phase2.batch_size=6", "phase3.batch_size=8", "tasks.names=[]", "sampling.clone_top=1",
        "sampling.clone_by=''", "imagination.horizon=4", "heads.hidden=128",
        *(f"phase{n}.steps=4" for n in (1, 2, 3)),
    ),
}  # fmt: skip
DROPOUT = ("heads.policy_dropout=0.4", "heads.reward_dropout=0.3")
CASES = {
    "1": (1, ()),
    "1 accumulated": (1, ("phase1.accumulate=2", "phase1.micro_batch=2")),
    "2": (2, ("heads.policy_dropout=0", "heads.reward_dropout=0")),
    "2 dropout": (2, DROPOUT),
    "3": (3, ()),
    "3 in pieces": (3, ("phase3.micro_batch=1",)),
}
SHORT = ("1", "2 dropout", "3")


class Pretend(Ranks):
    """One of several ranks, whose sums the caller makes: a process that goes through all of them in turn."""

    def __init__(self, rank: int, world: int) -> None:
        self.rank, self.world = rank, world


def settings(preset: str, *more: str) -> Config:
    return load_config(preset, (*COMMON, *SIZES[preset], *more))


def make_store(config: Config, run: Path) -> None:
    space = action_space(config.data.env)
    write_synthetic_store(run / "store", config.tokenizer.clock, space, episodes=6, steps=24, seed=0)


def built(config: Config, number: int, run: Path, ranks: Ranks | None = None) -> tuple[Phase[Any], Update]:
    """A phase on the checkpoints of `run`, its read-outs far from their zero start."""
    backend = choose_device(config)
    backend = backend if ranks is None else replace(backend, ranks=ranks)
    parent = RunDirectory(run).load(number - 1, config) if number > 1 else None
    torch.manual_seed(config.seed)
    phase = build_phase(config, number, LatentStore.open(run / "store"), parent, backend)
    torch.manual_seed(1)
    for name, parameter in phase.model.named_parameters():
        if name.endswith(("out.weight", "readout.weight")):
            nn.init.normal_(parameter, std=0.1)
    return phase, Update(phase, config.phase(number), backend, config.seed)


def gradients(preset: str, case: str, run: Path, world: int = 0) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
    """One step's gradients and figures; with `world` those of so many ranks, one after another in this process."""
    number, more = CASES[case]
    config = settings(preset, *more)
    sums: dict[str, float] = {}
    if not world:
        phase, update = built(config, number, run)
        figures = update.micro_batches.gradients(60)[-1]
        sums = {name: float(value) for name, value in figures.items()}
        return {n: p.grad.clone() for n, p in phase.model.named_parameters() if p.grad is not None}, sums
    found: dict[str, torch.Tensor] = {}
    for rank in range(world):
        phase, update = built(config, number, run, Pretend(rank, world))
        for name, value in update.micro_batches.gradients(60)[-1].items():
            sums[name] = sums.get(name, 0.0) + float(value)
        for name, p in phase.model.named_parameters():
            if p.grad is not None:
                found[name] = found[name] + p.grad if name in found else p.grad
    return found, sums


def act_gradients(folder: Path, preset: str) -> None:
    ranks = current()
    for case in CASES if preset == "debug" else SHORT:
        sums = getattr(ranks, "sums", None)
        before = (sums.calls, sums.bytes) if sums is not None else (0, 0)
        found, figures = gradients(preset, case, folder / f"one-{preset}")
        if ranks.is_main:
            counts = {"calls": sums.calls - before[0], "bytes": sums.bytes - before[1]} if sums is not None else {}
            torch.save((found, figures, counts), folder / f"gradients-{preset}-{case}-{ranks.world}.pt")


def act_train(folder: Path, preset: str) -> None:
    """All three phases, each from this run's own checkpoints."""
    run, ranks = folder / f"{'one' if current().is_alone else current().world}-{preset}", current()
    if ranks.is_main:
        make_store(settings(preset), run)
    ranks.meet("store")
    for number in (1, 2, 3):
        train(settings(preset), run, number, draws=False)


def act_third(folder: Path, name: str, *more: str) -> None:
    """A part of phase 1 up to a step, then SIGTERM to one rank, as if a batch system took it."""
    until, ranks = int(name), current()
    if ranks.is_main and until < 20:
        make_store(settings("debug"), folder / "thirds")
    ranks.meet("store")
    config = settings("debug", *more)
    plain = Update.__call__

    def step(self: Update, now: int) -> Any:
        if now + 1 == until and ranks.rank == ranks.world - 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return plain(self, now)

    Update.__call__ = step  # type: ignore[method-assign]
    try:
        train(config, folder / "thirds", 1, resume=until > 20, draws=False)
    except SystemExit as stop:
        (folder / f"third-{until}-{ranks.rank}").write_text(str(stop.code))
    finally:
        Update.__call__ = plain  # type: ignore[method-assign]


def act_faults(folder: Path, preset: str) -> None:
    """Plants what public code gets wrong in silence, and keeps what the comparison says of each."""
    ranks, said = current(), {}
    plain_sum, judge, finish = type(ranks).add_up, Skips.judge, RunningScale.update
    config = settings(preset)

    def no_sum(self: Any, parameters: Any, batches: Any) -> Any:
        return batches

    def skip_alone(self: Skips, norm: torch.Tensor, losses: Any = ()) -> torch.Tensor:
        return judge(self, norm * (float("nan") if ranks.rank == 1 else 1.0), losses)

    def own_scale(self: RunningScale, losses: Any, skipped: Any = None) -> None:
        finish(self, {name: value * (1 + ranks.rank) for name, value in losses.items()}, skipped)

    def try_one(name: str, number: int = 1, **changes: Any) -> None:
        seed = config.seed + (ranks.rank if name == "another seed" else 0)
        phase, update = built(replace(config, seed=seed), number, folder / f"one-{preset}")
        keeper = Keeper.__new__(Keeper)
        keeper.phase, keeper.update = phase, update
        said[name] = ""
        try:
            for step in range(2):
                update(step)
            ranks.compare(keeper.alike(), f"{name} after step 2")
        except RanksDiffer as error:
            said[name] = str(error)

    try_one("nothing")
    type(ranks).add_up = no_sum  # type: ignore[method-assign]
    try_one("no sum")
    type(ranks).add_up = plain_sum  # type: ignore[method-assign]
    try_one("another seed")
    Skips.judge = skip_alone  # type: ignore[method-assign]
    try_one("a skipped step")
    Skips.judge = judge  # type: ignore[method-assign]
    RunningScale.update = own_scale  # type: ignore[method-assign]
    try_one("an own loss scale")
    RunningScale.update = finish  # type: ignore[method-assign]
    try:
        ranks.begin({"store": str(ranks.rank)}, 120.0, 5, torch.device("cpu"))
    except UserError as error:
        said["another store"] = str(error)
    if ranks.is_main:
        (folder / "faults.json").write_text(json.dumps(said))


def act_memory(folder: Path, preset: str) -> None:
    """Memory runs out once on one rank, in a rollout: all go on with smaller pieces, and the same gradient."""
    ranks = current()
    plain, calls = ImaginationPhase.imagine, []

    def imagine(self: ImaginationPhase, batch: Any) -> Any:
        calls.append(1)
        if len(calls) == 1 and ranks.rank == 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")
        return plain(self, batch)

    ImaginationPhase.imagine = imagine  # type: ignore[method-assign]
    found, figures = gradients(preset, "3", folder / f"one-{preset}")
    ImaginationPhase.imagine = plain  # type: ignore[method-assign]
    if ranks.is_main:
        torch.save((found, figures, {"calls": len(calls)}), folder / f"memory-{preset}-{ranks.world}.pt")


ACTS = {
    "gradients": act_gradients,
    "train": act_train,
    "third": act_third,
    "faults": act_faults,
    "memory": act_memory,
}


def main() -> None:
    """Acts in turn, each as act=preset or act=step."""
    folder, *acts = sys.argv[1:]
    if place().world > 1:
        from fastdreamer.ranks.joining import joined

        ranks = membership.join(joined)
        ranks.begin({}, 120.0, 5, torch.device("cpu"))
    for word in acts:
        name, _, argument = word.partition("=")
        ACTS[name](Path(folder), argument)
    membership.leave()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
