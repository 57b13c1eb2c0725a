"""Plans as lines, tables and plain numbers."""

from __future__ import annotations

from typing import Any

from fastdreamer.config import TrainConfig
from fastdreamer.planning.cards import GIB, Budget
from fastdreamer.planning.plan import KINDS, Plan

LABELS = {
    "parameters": "parameters and buffers",
    "gradients": "gradients",
    "optimizer": "optimiser state",
    "average": "averaged weights (EMA)",
    "frozen": "frozen models and their bf16 copy",
    "caches": "KV caches",
    "buffers": "rollout buffers",
    "activations": "activations and temporaries",
    "fragmentation": "allocator's fragmentation",
    "graphs": "CUDA graphs' pool",
    "store": "latent store on the card",
    "workspaces": "cuBLAS workspaces (assumed)",
}
CHOSEN = ("micro_batch", "recompute", "batch_size", "accumulate")


def in_words(plan: Plan, short: bool = False) -> str:
    """A plan in a line; `short` is its settings alone."""
    train = plan.train
    words = [f"{plan.at_once} {KINDS[plan.number]} at once", f"batches of {train.batch_size}"]
    if train.accumulate > 1:
        words.append(f"{train.accumulate} accumulated")
    if train.recompute:
        words.append("activations recomputed")
    said = ", ".join(words)
    return said if short else f"phase {plan.number} plans {_gib(plan.reserved)} of {_gib(plan.limit)} GiB: {said}"


def change_of(train: TrainConfig, plan: Plan) -> list[str]:
    """The settings that lead from `train` to a plan, as overrides; pieces of the whole batch need none."""
    name = f"phase{plan.number}"
    changed = [
        (key, getattr(plan.train, key))
        for key in CHOSEN
        if getattr(plan.train, key) != getattr(train, key) and (key != "micro_batch" or train.micro_batch)
    ]
    return [f"{name}.{key}={str(value).lower()}" for key, value in changed]


def table(plan: Plan, budget: Budget) -> str:
    """A line a component, in GiB."""
    lines = [f"{in_words(plan)} ({budget.name}): {'fits' if plan.fits else 'DOES NOT FIT'}"]
    lines += [f"  {LABELS[name]:<36}{_gib(size):>7}" for name, size in plan.rows.items() if size]
    lines.append(f"  {'reserved by torch':<36}{_gib(plan.reserved):>7}")
    if plan.context:
        lines.append(f"  {'CUDA context (assumed), beside it':<36}{_gib(plan.context):>7}")
    return "\n".join(lines)


def numbers(plan: Plan) -> dict[str, Any]:
    """A plan for JSON, in GiB."""
    return {
        "phase": plan.number,
        "fits": plan.fits,
        "reserved_gb": plan.reserved / GIB,
        "limit_gb": plan.limit / GIB,
        "context_gb": plan.context / GIB,
        "components_gb": {name: size / GIB for name, size in plan.rows.items()},
        "at_once": plan.at_once,
        **plan.settings,
    }


def _gib(size: int) -> str:
    return f"{size / GIB:.2f}"
