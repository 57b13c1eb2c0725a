"""What 1 to 1,024 GPUs would take: steps a second, GPU-hours and memory, predicted from counts and a few rates.

A step is arithmetic (FLOPs counted on fake tensors), communication (bytes that follow from the weights) and the
optimiser's traffic. Rates of GPUs are their makers'; which share of them is reached is assumed, and said with the
table. There are no bubbles: no rank waits for another's layers. What is not in it: input, logging, held-out figures,
checkpoints, launches that a small step waits for, and ranks that are slower than others.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from fastdreamer.config import Config
from fastdreamer.device import Backend
from fastdreamer.dynamics import fused
from fastdreamer.dynamics.attention import Attention
from fastdreamer.dynamics.world_model import WorldModel
from fastdreamer.errors import UserError
from fastdreamer.recordings.actions import action_space
from fastdreamer.tools.planning.allocator import Tracker
from fastdreamer.tools.planning.gpus import GIB, Budget
from fastdreamer.tools.planning.layout import nearest
from fastdreamer.tools.planning.measure import Fake
from fastdreamer.tools.planning.plan import Plan, Planner
from fastdreamer.tools.planning.run_memory import store_share
from fastdreamer.tools.planning.stand_in import BlankLoader
from fastdreamer.training.build import Kind, build_phase
from fastdreamer.training.imagination_phase import ImaginationPhase

FPS = 20
HOURS = {"MineRL": 60.0, "VPT": 2541.0}
"""Hours of play at 20 frames a second: MineRL's 4.35 M frames, and what VPT's contractors recorded."""
PASSES = 5
"""ASSUMED: over VPT phase 1 goes as often at least, if the preset's steps are fewer."""
ENCODER_FLOPS = 655e9
"""FLOPs of one window of 33 frames at 256 x 256 (counted); the next begins 32 frames later."""
UPDATE_BYTES = 40
"""Read and written for a weight that is updated: gradient, weight, two moments, average, each way where it changes."""
NODE = 8
"""GPUs that NVLink connects."""


@dataclass(frozen=True)
class Rates:
    """One GPU: products in bf16 in FLOP/s, memory, and what it sends inside and between machines, in bytes a second."""

    flops: float
    memory: float
    inside: float
    between: float


RATES = {
    "h100-80gb": Rates(989e12, 3.35e12, 450e9, 50e9),
    "a100-80gb": Rates(312e12, 2.04e12, 300e9, 25e9),
}
"""The makers' figures: dense bf16, HBM, NVLink one way, and a network card of 400 or 200 Gbit/s a GPU."""
MFU = 0.35
"""ASSUMED: the share of the products' rate that a step reaches."""
REACHED = 0.7
"""ASSUMED: the share of the other rates."""


@dataclass(frozen=True)
class Sizes:
    """What a phase's step is made of.

    Attributes:
        flops: FLOPs of a row of its batch, forward and backward; `again`: more where activations are recomputed.
        blocks: weights that can be sharded; `rest`: all others that train.
        passes: how often a sharded block is gathered for a piece of a batch.
        width: bytes of a weight as it is gathered.
    """

    flops: float
    again: float
    blocks: int
    rest: int
    passes: int
    width: int = 2


@dataclass(frozen=True)
class Cost:
    """One row of the table; hours are of the whole phase on all GPUs together."""

    ranks: int
    batch: int
    plan: Plan
    is_sharded: bool
    seconds: float
    sent: float


def step_seconds(
    sizes: Sizes, rates: Rates, rows: int, pieces: int, ranks: int, is_sharded: bool, mfu: float, overlaps: bool = True
) -> float:
    """A step's time.

    Sums of whole gradients come after the backward pass; what a sharded block needs comes beside the passes, where the
    machine does both at once (`overlaps`).
    """
    arithmetic = rows * sizes.flops / (mfu * rates.flops)
    beside, after = sent(sizes, pieces, ranks, is_sharded)
    if not overlaps:
        beside, after = 0.0, beside + after
    bandwidth = REACHED * (rates.inside if ranks <= NODE else rates.between)
    updated = sizes.rest + sizes.blocks / (ranks if is_sharded else 1)
    update = UPDATE_BYTES * updated / (REACHED * rates.memory)
    return max(arithmetic, beside / bandwidth) + after / bandwidth + update


def sent(sizes: Sizes, pieces: int, ranks: int, is_sharded: bool) -> tuple[float, float]:
    """Bytes that each rank sends in a step over a ring: beside its passes, and after them."""
    share = (ranks - 1) / ranks
    if not is_sharded:
        return 0.0, 2 * share * 4 * (sizes.rest + sizes.blocks)
    gathers, sums = sizes.width * sizes.passes, 4
    return share * sizes.blocks * pieces * (gathers + sums), 2 * share * 4 * sizes.rest


@cache
def sizes_of(config: Config, number: int) -> Sizes:
    """Counts of a phase: one row of its batch goes through on fake tensors, attention as plain products."""
    space = action_space(config.data.env)
    with torch.device("meta"):
        world = WorldModel.build(config, space.sizes)
    blocks = sum(p.numel() for p in world.transformer.blocks.parameters())
    has_boots = number == 1 and config.forcing.levels == "grid"
    shares = (0.0, 1.0) if has_boots else (0.0,)
    (flow, trained), *boots = [_row(config, number, share) for share in shares]
    share = config.forcing.boot_fraction if has_boots else 0.0
    flops = flow * (1 - share) + (boots[0][0] * share if boots else 0.0)
    if number != 1:
        return Sizes(flops, 0.0, 0, trained, 0)
    return Sizes(flops, flow / 3, blocks, trained - blocks, 4 if share else 2)


def _row(config: Config, number: int, boot_share: float) -> tuple[float, int]:
    """FLOPs of one row, and the weights that train."""
    one = replace(config, forcing=replace(config.forcing, boot_fraction=boot_share, boot_warmup=0.0))
    one = one.with_phase(number, replace(config.phase(number), batch_size=1, micro_batch=1, recompute=False))
    kinds: dict[int, Kind] = {3: partial(ImaginationPhase, proves=False)}
    backend = Backend(torch.device("cpu"), "bf16")
    with Fake(), Tracker(is_gpu=True), fused.plain():
        phase = build_phase(one, number, BlankLoader(one, number), None, backend, kinds.get(number))
        for module in [m for part in (phase.model, *phase.frozen.values()) for m in part.modules()]:
            if isinstance(module, Attention):
                module.is_fused = False
        trained = sum(p.numel() for p in phase.model.parameters() if p.requires_grad)
        if number == 1:  # look-ups count nothing, and the counter cannot see their gradient inside the half-steps
            phase.model.get_submodule("world.tokens.actions").requires_grad_(False)
        phase.model.train()
        with FlopCounterMode(display=False) as counter, backend.autocast():
            loss, _ = phase.loss(phase.draw(), 0)
            loss.backward()
    return float(counter.get_total_flops()), trained


def costs(config: Config, number: int, budget: Budget, counts: Sequence[int], mfu: float) -> Iterator[Cost]:
    """A phase on each number of GPUs, whole where that fits and sharded where not; none where neither does.

    A batch that so many ranks cannot share grows to the next multiple of them.
    """
    rates, share = RATES[budget.name], store_share(config, budget, None)
    train = config.phase(number)
    for ranks in counts:
        batch = -(-train.batch_size // ranks) * ranks
        own = config.with_phase(number, replace(train, batch_size=batch // ranks))
        planner = Planner(own, number, budget, share, ranks, config.ranks.shard, batch)
        plan = planner.configured()
        found = (planner, plan) if plan.fits else nearest(planner)
        if found is None:
            continue
        planner, plan = found
        is_sharded, sizes = planner.shards > 1, sizes_of(config, number)
        sizes = replace(sizes, flops=sizes.flops + (sizes.again if plan.train.recompute else 0.0))
        rows = plan.train.batch_size * plan.train.accumulate
        pieces = plan.train.accumulate * -(-plan.train.batch_size // plan.at_once)
        seconds = step_seconds(sizes, rates, rows, pieces, ranks, is_sharded, mfu)
        yield Cost(ranks, rows * ranks, plan, is_sharded, seconds, sum(sent(sizes, pieces, ranks, is_sharded)))


def hours_of(config: Config, number: int, cost: Cost, data: str) -> float:
    """GPU-hours of a phase: as many rows as its preset trains on, or in phase 1 `PASSES` over the recordings."""
    train = config.phase(number)
    rows = float(train.steps * train.batch_size * train.accumulate)
    if number == 1 and data != "MineRL":
        row_frames = config.dynamics.window * config.tokenizer.frames_per_latent
        rows = max(rows, PASSES * HOURS[data] * 3600 * FPS / row_frames)
    return rows / cost.batch * cost.seconds * cost.ranks / 3600


def table(config: Config, budget: Budget, phases: Sequence[int], first: int, last: int, mfu: float) -> dict[str, Any]:
    """Prints a table a phase and what it assumes; returns the same numbers.

    Raises:
        UserError: for a GPU whose rates are not known.
    """
    if budget.name not in RATES:
        raise UserError(f"--gpus {first}..{last} needs a GPU whose rates are known: --gpu {' or '.join(RATES)}")
    counts = [n for n in (2**i for i in range(11)) if first <= n <= last]
    rates, found = RATES[budget.name], dict[str, list[dict[str, Any]]]()
    print(
        f"assumed: {mfu:.0%} of {rates.flops / 1e12:.0f} TFLOP/s, {REACHED:.0%} of {rates.inside / 1e9:.0f} GB/s "
        f"inside {NODE} GPUs and of {rates.between / 1e9:.0f} GB/s a GPU between machines; no GPU has confirmed it"
    )
    for number in phases:
        print(f"phase {number}\n  GPUs  layout   batch  GiB a GPU  steps/s  GB sent  GPU-hours: MineRL  VPT")
        rows = found[str(number)] = []
        for cost in costs(config, number, budget, counts, mfu):
            hours = {data: hours_of(config, number, cost, data) for data in HOURS}
            layout = "sharded" if cost.is_sharded else "whole"
            print(
                f"  {cost.ranks:>4}  {layout:<7}  {cost.batch:>5}  {cost.plan.reserved / GIB:>9.1f}  "
                f"{1 / cost.seconds:>7.2f}  {cost.sent / 1e9:>7.2f}  {hours['MineRL']:>17,.1f}  {hours['VPT']:,.1f}",
                flush=True,
            )
            settings = cost.plan.settings | {"batch_size": cost.batch // cost.plan.train.accumulate}
            rows.append(
                {"gpus": cost.ranks, "sharded": cost.is_sharded, "batch": cost.batch, "settings": settings}
                | {"reserved_gb": cost.plan.reserved / GIB, "steps_per_s": 1 / cost.seconds, "sent_bytes": cost.sent}
                | {"gpu_hours": hours}
            )
        if not rows:
            print("  fits on none of them")
    windows = {data: hours * 3600 * FPS / 32 for data, hours in HOURS.items()}
    encode = {data: count * ENCODER_FLOPS / (mfu * rates.flops) / 3600 for data, count in windows.items()}
    said = ", ".join(f"{data} ({HOURS[data]:,.0f} h of play) {hours:,.1f}" for data, hours in encode.items())
    print(f"encode, GPU-hours: {said}")
    return {"gpu": budget.name, "phases": found, "encode_gpu_hours": encode, "mfu": mfu, "refused": False}
