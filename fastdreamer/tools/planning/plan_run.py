"""`fastdreamer plan`: the plans of some phases for a GPU, what would fit where they do not, and what `encode` takes.

`encode` has no fake run: an engine's memory is its compiler's, so only what is known is sized.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from fastdreamer.config import Config
from fastdreamer.shapes import CHANNELS
from fastdreamer.tokenizer.frozen import BYTES_PER_PIXEL, CHUNK_GB
from fastdreamer.tools.planning.gpus import CONTEXT, GIB, Budget
from fastdreamer.tools.planning.plan import KINDS, PHASES, Plan, Planner, change_of, in_words, numbers, table
from fastdreamer.tools.planning.run_memory import store_share

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
