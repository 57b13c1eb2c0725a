"""Plans as lines, tables and plain numbers."""

from __future__ import annotations

from typing import Any

from fastdreamer.config import TrainConfig
from fastdreamer.tools.planning.gpus import GIB, Budget
from fastdreamer.tools.planning.plan import KINDS, Plan

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
    "store": "latent store on the GPU",
    "workspaces": "cuBLAS workspaces (assumed)",
}


def in_words(plan: Plan, short: bool = False) -> str:
    """A plan in a line; `short` is its settings alone."""
    train = plan.train
    kind = KINDS[plan.number] if plan.at_once > 1 else KINDS[plan.number].removesuffix("s")
    words = [f"{plan.at_once} {kind} at once", f"batches of {train.batch_size}"]
    if train.accumulate > 1:
        words.append(f"{train.accumulate} accumulated")
    if train.recompute:
        words.append("activations recomputed")
    said = ", ".join(words)
    return said if short else f"phase {plan.number} plans {size(plan.reserved)} of {size(plan.limit)}: {said}"


def change_of(train: TrainConfig, plan: Plan) -> list[str]:
    """The settings that lead from `train` to a plan, as overrides; a micro-batch of the whole batch needs none."""
    words = [
        f"phase{plan.number}.{key}={str(value).lower()}"
        for key, value in plan.settings.items()
        if value != getattr(train, key) and (key != "micro_batch" or train.micro_batch)
    ]
    return [*words, "data.resident=ram"] if plan.in_ram else words


def table(plan: Plan, budget: Budget) -> str:
    """A line a component, in GiB."""
    lines = [f"{in_words(plan)} ({budget.name}): {'fits' if plan.fits else 'DOES NOT FIT'}"]
    lines += [f"  {LABELS[name]:<36}{_gib(taken):>7}" for name, taken in plan.rows.items() if taken]
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
        "components_gb": {name: taken / GIB for name, taken in plan.rows.items()},
        "at_once": plan.at_once,
        **plan.settings,
    }


def size(size_bytes: int) -> str:
    """A size in GiB, or in MiB where it is small."""
    return f"{size_bytes / GIB:.2f} GiB" if size_bytes >= GIB / 10 else f"{size_bytes / 2**20:.1f} MiB"


def _gib(size_bytes: int) -> str:
    return f"{size_bytes / GIB:.2f}"
