"""Memory in `train`: planned before a phase is built, refused if it cannot fit, compared with what was taken."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from fastdreamer.config import Config
from fastdreamer.device import Backend
from fastdreamer.errors import UserError
from fastdreamer.tools.planning.gpus import GIB, Budget, this_machine
from fastdreamer.tools.planning.plan import Plan, Planner, change_of, in_words, size

STATUS = Path("/proc/self/status")


class RunMemory:
    """One phase's memory; on a CPU without `memory_gb` it does nothing.

    Attributes:
        plan: what was planned, or None.
    """

    def __init__(self) -> None:
        self.plan: Plan | None = None
        self._device = torch.device("cpu")
        self._before = 0

    def settle(self, config: Config, number: int, backend: Backend, store_bytes: int) -> Config:
        """The configuration with the phase's `micro_batch` settled; prints the plan in a line.

        Raises:
            UserError: where it cannot fit, with the change that would.
        """
        budget = this_machine(config, backend)
        if budget is None:
            return config
        planner = Planner(config, number, budget, store_share(config, budget, store_bytes))
        plan = planner.configured()
        if not plan.fits:
            raise UserError(refusal(planner, plan))
        print(f"memory: {in_words(plan)}", flush=True)
        self.plan, self._device = plan, backend.device
        if backend.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(backend.device)
        else:
            self._before = _start_of_growth()
        return config.with_phase(number, replace(plan.train))

    def finished(self) -> dict[str, Any]:
        """Predicted against measured, in GiB, printed in a line; nothing where nothing was planned."""
        if self.plan is None:
            return {}
        if self._device.type == "cuda":
            measured, what = torch.cuda.max_memory_reserved(self._device), "reserved on the GPU"
        else:
            measured, what = _status("VmHWM") - self._before, "growth of resident memory"
        planned = self.plan.reserved
        print(
            f"memory: planned {size(planned)}, measured {size(measured)} ({what}), {measured / planned - 1:+.0%}",
            flush=True,
        )
        return {
            "memory": {
                "planned_gb": planned / GIB,
                "measured_gb": measured / GIB,
                "limit_gb": self.plan.limit / GIB,
                "measured": what,
                "at_once": self.plan.at_once,
            }
        }


def store_share(config: Config, budget: Budget, store_bytes: int | None) -> int:
    """What the latent store takes of a GPU (see `choose_home`); of a store that is not there yet, the most."""
    settings = config.data
    most = int(settings.card_limit_gb * GIB)
    if not budget.is_gpu or settings.resident == "ram":
        return 0
    if store_bytes is None:
        return most
    return store_bytes if settings.resident == "card" or store_bytes <= most else 0


def refusal(planner: Planner, plan: Plan) -> str:
    """Why a plan is refused and what would fit, in a line."""
    name = f"phase{plan.number}"
    said = (
        f"{name} plans {size(plan.reserved)} with {in_words(plan, short=True)}, over the {size(plan.limit)} that a run "
        f"may take of {planner.budget.name}"
    )
    change = planner.change()
    if change is None:
        return f"{said}, and no setting of the phase makes it fit: lower dynamics.dim or dynamics.layers"
    words = " ".join(change_of(planner.train, change))
    return f"{said}: {words or f'{name}.micro_batch=0'} would plan {size(change.reserved)}"


def _start_of_growth() -> int:
    """Resident bytes now; from here on the kernel's record of the most starts anew, where it may."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _status(name: str) -> int:
    """Bytes of a line of this process's status; 0 where there is no such file."""
    with suppress(OSError):
        for line in STATUS.read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
    return 0
