"""What an optimisation step of each phase reserves on a GPU, beside what was planned for it.

    PYTHONPATH=.:kernels:engines python -m bench.gpu.memory [--device cuda|cpu] [--config minerl_cosmos]
        [--memory-gb 12]

The plan is that of a GPU of so much memory, and torch is held to it; steps are eager, as the plan is. Without a GPU
the plan is made and the steps run, and nothing is compared.
"""

from __future__ import annotations

import argparse
import gc
from collections.abc import Sequence
from dataclasses import replace

from bench.phases import Optimisation, made_up, made_up_phase
from bench.suites.command import cap_memory, fresh_peaks, peaks, reason_of
from bench.suites.results import at_least, at_most
from fastdreamer.config import Config, load_config
from fastdreamer.device import choose_device
from fastdreamer.tools.planning.gpus import GIB, Budget, sized_gpu
from fastdreamer.tools.planning.plan import Plan, Planner

STEPS = 4
NEAR = 0.10
"""The share of the plan that a CPU's peaks are away from it at most; whether a GPU's are is asked here."""


def planned(config: Config, number: int, budget: Budget) -> Plan:
    """The phase as configured, with the made-up episodes as its store."""
    store = sum(episode.latents.nbytes for episode in made_up(config))
    return Planner(config, number, budget, store).configured()


def measured(config: Config, number: int) -> int:
    """Bytes that torch reserved at most in a few steps; 0 on a CPU.

    Raises:
        MemoryError: where the batch went through in halves, as it did not fit as planned.
    """
    gc.collect()
    fresh_peaks()
    backend = replace(choose_device(replace(config, compile="off")), compiles=False)
    optimisation = Optimisation(made_up_phase(config, number, backend), config.phase(number), backend)
    for _ in range(STEPS):
        optimisation.step()
    if optimisation.micro_batches.is_halved:
        raise MemoryError("the batch did not fit as planned, and went through in halves")
    return peaks()[1]


def main(given: Sequence[str] | None = None) -> int:
    """Prints what each phase was planned to take, took, and whether that is as promised."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--config", default="minerl_cosmos")
    parser.add_argument("--memory-gb", type=float, default=0.0)
    chosen = parser.parse_args(given)
    config = load_config(chosen.config, [f"device={chosen.device}", "compile=off"])
    if chosen.device == "cuda":
        cap_memory(chosen)
    budget, failures = sized_gpu(config, f"{chosen.memory_gb or 12:g}GiB"), 0
    for number in (1, 2, 3):
        try:
            plan = planned(config, number, budget)
            said = f"phase {number}: planned {plan.reserved / GIB:.2f} GiB of {budget.limit / GIB:.2f}"
            print(f"{said}, {plan.at_once} at once", flush=True)
            taken = measured(config.with_phase(number, plan.train), number)
        except Exception as error:  # out of memory is an answer, and the other phases are worth having
            failures += 1
            print(f"failed: phase {number}: {reason_of(error)}", flush=True)
            continue
        if chosen.device == "cuda":
            ratio = taken / plan.reserved
            print(at_most(f"phase {number}, reserved GiB", taken / GIB, budget.limit / GIB))
            print(at_most(f"phase {number}, reserved over planned", ratio, 1 + NEAR))
            print(at_least(f"phase {number}, reserved over planned", ratio, 1 - NEAR), flush=True)
    if chosen.device == "cpu" and not failures:
        print(f"3 phases planned, {STEPS} steps of each; a CPU reserves nothing to compare")
    return 1 if failures else 0


if __name__ == "__main__":
    raise SystemExit(main())
