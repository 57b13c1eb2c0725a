"""Memory in `train`: planned before a phase is built, refused if it cannot fit, compared with what was taken.

And `fastdreamer plan`: the plans of some phases for a GPU, what would fit where they do not, and what `encode` takes,
which has no fake run: an engine's memory is its compiler's, so only what is known is sized.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from fastdreamer.config import Config
from fastdreamer.device import Backend
from fastdreamer.errors import UserError
from fastdreamer.shapes import CHANNELS
from fastdreamer.system.cores import kernel_bytes
from fastdreamer.tokenizer.frozen import BYTES_PER_PIXEL, CHUNK_GB
from fastdreamer.tools.planning.gpus import CONTEXT, GIB, Budget, this_machine
from fastdreamer.tools.planning.layout import layout, nearest, of_one_rank, refusal_of, words_for
from fastdreamer.tools.planning.plan import KINDS, PHASES, Plan, Planner, in_words, numbers, size, table

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
        share, ranks = store_share(config, budget, store_bytes), backend.ranks.world
        planner = Planner(config, number, budget, share, ranks, config.ranks.shard)
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
            # Linux keeps both counts by CPU and adds them up loosely: a most below the start is no growth.
            measured, what = max(0, kernel_bytes(STATUS, "VmHWM") - self._before), "growth of resident memory"
        planned = self.plan.reserved
        print(
            f"memory: planned {size(planned)}, measured {size(measured)} ({what}), {measured / planned - 1:+.0%}",
            flush=True,
        )
        sizes = {"planned_gb": planned, "measured_gb": measured, "limit_gb": self.plan.limit}
        in_gib = {name: size_bytes / GIB for name, size_bytes in sizes.items()}
        return {"memory": in_gib | {"measured": what, "at_once": self.plan.at_once}}


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
    return refusal_of(
        planner,
        f"phase{plan.number} plans {size(plan.reserved)} with {in_words(plan, short=True)}, over the "
        f"{size(plan.limit)} that a run may take of {planner.budget.name}",
    )


def _start_of_growth() -> int:
    """Resident bytes now; from here on the kernel's record of the most starts anew, where it may."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return kernel_bytes(STATUS, "VmRSS")


GPU_BATCH = 16
"""Windows in the largest call of a GPU's engine, unless `engines.batches` says otherwise."""
SURFACES = 8
"""Decoded frames that NVDEC holds beside a block."""
BUFFERS = 2
"""Outputs that a DALI pipeline keeps: the one that is read and the one that is made."""


def encode_rows(config: Config, budget: Budget) -> dict[str, int]:
    """Bytes by component, each named with what it rests on; nothing on a CPU.

    Weights are counted on the real architecture (left out where diffusers is not installed), activations are the eager
    encoder's 120 bytes a pixel in fp32 (60 in half precision) for one chunk of windows, and surfaces are the arrays
    that DALI is asked for.
    """
    if not budget.is_gpu:
        return {}
    from fastdreamer.recordings.decode import BLOCK  # the decoder's libraries are not for those who train

    tokenizer, engines = config.tokenizer, config.engines
    width = 4 if engines.precision == "fp32" else 2
    pixels = tokenizer.window * tokenizer.image_size**2
    allowed = int((engines.memory_gb or CHUNK_GB["cuda"]) * 2**30) // (BYTES_PER_PIXEL * pixels)
    windows = max(1, allowed, *(engines.batches or (GPU_BATCH,)))
    frame = 3 * config.data.frame_size**2
    recorded = windows * tokenizer.window * frame
    rows = {
        f"encoder weights ({8 * width} bits)": _encoder_parameters(config) * width,
        f"activations of {windows} windows": BYTES_PER_PIXEL * windows * pixels * width // 4,
        "DALI: resampled windows, two buffers": BUFFERS * 3 * windows * pixels * 4,
        "recorded windows, NVDEC's block": BUFFERS * recorded + (BLOCK + SURFACES) * frame,
        "latents": windows * CHANNELS * tokenizer.clock.positions * (tokenizer.image_size // 8) ** 2 * width,
        "CUDA context (assumed)": CONTEXT,
    }
    return {name: size for name, size in rows.items() if size}


def _encoder_parameters(config: Config) -> int:
    if find_spec("diffusers") is None:
        return 0
    from diffusers import AutoencoderKLCosmos  # noqa: F401  (its module makes tensors, which must be real)

    from fastdreamer.tokenizer.cosmos import load_autoencoder

    with torch.device("meta"):
        model = load_autoencoder(replace(config.tokenizer, weights="random"))
    return sum(p.numel() for part in (model.encoder, model.quant_conv) for p in part.parameters())


def plan_run(
    config: Config, budget: Budget, phases: Sequence[int] = PHASES, store: Path | None = None, ranks: int = 1
) -> dict[str, Any]:
    """Plans every phase and prints its table; where there is no store yet, the most that may lie on the GPU is counted.

    Of several ranks it is one rank's plan.

    Returns:
        The same numbers; `refused` says that some phase does not fit as configured.
    """
    is_there = store is not None and store.is_dir()
    store_bytes = sum(f.stat().st_size for f in store.rglob("*.safetensors")) if is_there and store else None
    share = store_share(config, budget, store_bytes)
    result: dict[str, Any] = {"budget": budget.name, "limit_gb": budget.limit / GIB, "phases": {}, "changes": []}
    plans: list[Plan] = []
    for number in phases:
        whole_batch = config.phase(number).batch_size
        own = of_one_rank(config, number, ranks)
        planner = Planner(own, number, budget, share, ranks, config.ranks.shard, whole_batch)
        plan = planner.configured()
        plans.append(plan)
        result["phases"][str(number)] = numbers(plan)
        print(table(plan, budget), flush=True)
        if line := layout(planner, plan):
            result["phases"][str(number)] |= {"ranks": ranks, "sharded": planner.shards > 1}
            print(line, flush=True)
        found = (planner, plan) if plan.fits else nearest(planner)
        if found is None:
            print("  nothing that is a setting of the phase would fit: lower dynamics.dim or dynamics.layers")
            result["changes"].append(f"phase {number}: none")
        else:
            words, change = words_for(*found), found[1]
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
