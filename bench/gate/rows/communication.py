"""What one of two ranks sends in a step of each phase, and of phase 1 sharded: calls of collectives and their bytes.

The other rank is not there (torch's `fake` group): what is sent is counted, and what comes back is not looked at.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any

from bench.gate.rows.base import GateRow, Place, RowWork, Wrong
from bench.phases import made_up_phase
from fastdreamer.config import Config
from fastdreamer.ranks.group import Group
from fastdreamer.ranks.sums import Sums
from fastdreamer.tools.planning.stand_in import planned_mesh
from fastdreamer.training.loop import shards_of
from fastdreamer.training.step import Update

RANKS = 2
PASSES = 4
"""A block is gathered for its pass, for two half-steps, and for the backward pass."""


@contextmanager
def first_of_two(place: Place) -> Iterator[Group]:
    """The first rank of a group whose other one is not there."""
    nobody: Any = SimpleNamespace(count=0, doing="", requests=[])
    with planned_mesh(RANKS):
        group = Group(0, RANKS, nobody, lambda: None, lambda: None)
        group.sums = Sums(0, RANKS, place.device)
        yield group


def sent(config: Config, number: int, place: Place) -> tuple[dict[str, int], dict[str, int]]:
    """What one step sends, and numbers of what it is made of."""
    with first_of_two(place) as group:
        backend = replace(place.backend, ranks=group)
        phase = made_up_phase(config, number, backend)
        sizes = {name: p.numel() for name, p in phase.model.named_parameters() if p.requires_grad}
        update = Update(phase, config.phase(number), backend, config.seed, shards_of(phase, config, backend))
        phase.model.train()
        figures, _ = update(0)
        assert group.sums is not None
        counts = {"calls": group.sums.calls, "bytes": group.sums.bytes, "agreements": group.agreements}
        used = [name for name in sizes if name in _with_state(update)]
        blocks = sum(sizes[name] for name in used if ".blocks." in name) if config.ranks.shard else 0
        return counts, {
            "figures": len(figures),
            "blocks": blocks,
            "rest": sum(map(sizes.__getitem__, used)) - blocks,
            "layers": config.dynamics.layers,
        }


def _with_state(update: Update) -> set[str]:
    """The parameters that had a gradient: an optimiser keeps something of them."""
    states = {id(p) for optimizer in update.optimizers for p in optimizer.state}
    return {name for name, p in update.shards.named(update.phase.model) if id(p) in states}


def build(number: int, is_sharded: bool, place: Place) -> RowWork:
    """The row of a phase; what is sent must be what arithmetic says."""
    config = place.config("forcing.boot_warmup=0", f"ranks.shard={str(is_sharded).lower()}")

    def check() -> None:
        counts, of = sent(config, number, place)
        calls, size = 1, 4 * (of["rest"] + of["figures"] + RANKS)
        if number == 3:  # rewards, returns, values and survival of a rank's dreams
            calls, size = 2, size + 4 * 4 * config.phase3.batch_size // RANKS * config.imagination.horizon
        if is_sharded:  # gathers send a rank's half of a block, sums the whole of it; and the norm
            calls += of["layers"] * (PASSES + 1) + 1
            size += 4 * of["blocks"] * PASSES // RANKS + 4 * of["blocks"] + 4
        if (counts["calls"], counts["bytes"]) != (calls, size):
            raise Wrong(f"{counts['calls']} calls of {counts['bytes']:,} bytes, by arithmetic {calls} of {size:,}")

    return RowWork(check, lambda: sent(config, number, place)[0])


SENT = tuple(GateRow(f"phase {n} sent by a rank", partial(build, n, False), devices=("cpu",)) for n in (1, 2, 3))
ROWS = (*SENT, GateRow("phase 1 sent by a rank, sharded", partial(build, 1, True), devices=("cpu",)))
