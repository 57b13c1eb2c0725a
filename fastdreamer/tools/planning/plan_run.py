"""`fastdreamer plan`: the plans of some phases for a GPU, and what would fit where they do not."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fastdreamer.config import Config
from fastdreamer.tools.planning.gpus import GIB, Budget
from fastdreamer.tools.planning.plan import KINDS, PHASES, Plan, Planner
from fastdreamer.tools.planning.plan_encode import encode_rows
from fastdreamer.tools.planning.plan_table import change_of, in_words, numbers, table
from fastdreamer.tools.planning.run_memory import store_share


def plan_run(
    config: Config, budget: Budget, phases: Sequence[int] = PHASES, store: Path | None = None
) -> dict[str, Any]:
    """Plans every phase and prints its table.

    Args:
        config: the configuration as it is.
        budget: what must hold it.
        phases: the phases that are planned.
        store: the run's latent store, if it is there; else the most that may lie on the GPU is counted.

    Returns:
        The same numbers; `refused` says that some phase does not fit as configured.
    """
    is_there = store is not None and store.is_dir()
    store_bytes = sum(f.stat().st_size for f in store.rglob("*.safetensors")) if is_there and store else None
    share = store_share(config, budget, store_bytes)
    result: dict[str, Any] = {"budget": budget.name, "limit_gb": budget.limit / GIB, "phases": {}, "changes": []}
    plans: list[Plan] = []
    for number in phases:
        planner = Planner(config, number, budget, share)
        plan = planner.configured()
        plans.append(plan)
        result["phases"][str(number)] = numbers(plan)
        print(table(plan, budget), flush=True)
        change = plan if plan.fits else planner.change()
        if change is None:
            print("  nothing that is a setting of the phase would fit: lower dynamics.dim or dynamics.layers")
            result["changes"].append(f"phase {number}: none")
        else:
            words = change_of(planner.train, change)
            if not plan.fits:
                print(f"  would fit: {' '.join(words)} ({in_words(change)})")
                result["changes"] += words
            if number == 3:
                most = planner.room().at_once
                print(f"  at most {most} {KINDS[number]} at once")
                result["phases"]["3"]["most_dreams"] = most
    rows = encode_rows(config, budget)
    result["encode_gb"] = {name: size / GIB for name, size in rows.items()}
    if rows:
        print(f"encode plans {sum(rows.values()) / GIB:.2f} of {budget.limit / GIB:.2f} GiB ({budget.name})")
        for name, size in rows.items():
            print(f"  {name:<36}{size / GIB:>7.2f}")
    result["refused"] = not all(plan.fits for plan in plans)
    return result
