"""What ranks do that share out a model, for tests to compare with one process: as acts.py, with its own acts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import acts
import torch
from acts import built, make_store, settings
from torch import Tensor

from fastdreamer.config import Config
from fastdreamer.device import choose_device
from fastdreamer.latents.store import LatentStore
from fastdreamer.ranks.group import Group
from fastdreamer.ranks.membership import current
from fastdreamer.ranks.sharding import Shards
from fastdreamer.training.build import build_phase
from fastdreamer.training.loop import shards_of
from fastdreamer.training.restoring import held, share
from fastdreamer.training.step import Update
from fastdreamer.training.train import train

SHARDED = ("ranks.shard=true", "phase1.batch_size=8")
CASES = {
    "adamw": ("phase1.optimizer=adamw",),
    "muon": ("phase1.optimizer=muon",),
    "boots of one rank alone": ("phase1.optimizer=adamw", "forcing.boot_fraction=0.1"),
    "recomputed in pieces": (
        "phase1.optimizer=adamw", "phase1.recompute=true", "phase1.micro_batch=1", "phase1.accumulate=2",
    ),
}  # fmt: skip
STEPS = 5
WIDE = (
    *SHARDED, "dynamics.dim=256", "dynamics.layers=4", "dynamics.heads=4", "dynamics.kv_heads=2",
    "forcing.boot_fraction=0.5",
)  # fmt: skip
"""Large beside the 512 bytes that allocations are rounded to."""


def config_of(case: str) -> Config:
    return settings("debug", *SHARDED, *CASES[case])


def trained(case: str, folder: Path) -> tuple[Update, dict[str, Any]]:
    """Some steps of phase 1 whose read-outs are far from their zero start; losses, norms, and what was sent."""
    config, ranks = config_of(case), current()
    phase, _ = built(config, 1, folder / "sharded")
    backend = choose_device(config)
    update = Update(phase, config.phase1, backend, config.seed, shards_of(phase, config, backend))
    phase.model.train()
    found: dict[str, Any] = {"losses": [], "norms": [], "sent": []}
    for step in range(60, 60 + STEPS):
        sums = getattr(ranks, "sums", None)
        before = (sums.calls, sums.bytes) if sums is not None else (0, 0)
        figures, norm = update(step)
        found["losses"].append(float(figures["loss"]))
        found["norms"].append(float(norm))
        found["sent"].append((sums.calls - before[0], sums.bytes - before[1]) if sums is not None else None)
    return update, found


def act_steps(folder: Path, planted: str) -> None:
    """Every case, or Muon's with a fault; each rank leaves its share of a checkpoint, and what it holds."""
    ranks = current()
    if ranks.is_main and not (folder / "sharded").exists():
        make_store(settings("debug"), folder / "sharded")
    ranks.meet("store")
    for case in ("muon",) if planted else CASES:
        update, found = trained(case, folder)
        (folder / f"held-{case}-{ranks.rank}-{ranks.world}.json").write_text(json.dumps(held_bytes(update)))
        torch.save((found, share(update)), folder / f"steps-{planted or case}-{ranks.rank}-{ranks.world}.pt")


def act_planted(folder: Path, _: str) -> None:
    """What a sharded step gets wrong in silence, one after another."""
    whole, total = Shards.whole, Group.total

    def own_alone(self: Shards, part: Tensor, rows: int, dim: int = 0) -> Tensor:
        return whole(self, part, rows, dim) if dim == 0 else part.new_zeros(len(part), rows, part.shape[2])

    Shards.whole = own_alone  # type: ignore[method-assign]
    act_steps(folder, "matrices that were not gathered")
    Shards.whole = whole  # type: ignore[method-assign]
    Group.total = lambda self, parts: parts  # type: ignore[method-assign]
    act_steps(folder, "norms of parts")
    Group.total = total  # type: ignore[method-assign]


def act_memory(folder: Path, optimizer: str) -> None:
    """The bytes that a rank holds after a step."""
    config, ranks = settings("debug", *WIDE, f"phase1.optimizer={optimizer}"), current()
    backend = choose_device(config)
    phase = build_phase(config, 1, LatentStore.open(folder / "sharded" / "store"), None, backend)
    update = Update(phase, config.phase1, backend, config.seed, shards_of(phase, config, backend))
    update(60)
    (folder / f"memory-{optimizer}-{ranks.rank}.json").write_text(json.dumps(held_bytes(update)))


def held_bytes(update: Update) -> dict[str, int]:
    groups = held(update)
    return {name: sum(x.numel() * x.element_size() for x in group.values()) for name, group in groups.items()}


def act_whole(folder: Path, _: str) -> None:
    """The phase by one process, uninterrupted."""
    make_store(settings("debug"), folder / "whole")
    train(settings("debug", *SHARDED), folder / "whole", 1, draws=False)


acts.ACTS |= {
    "steps": act_steps,
    "planted": act_planted,
    "memory": act_memory,
    "whole": act_whole,
    "third": lambda folder, name: acts.act_third(folder, name, *SHARDED),
}

if __name__ == "__main__":
    torch.set_num_threads(1)
    acts.main()
