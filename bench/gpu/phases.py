"""Does each phase train? `train` itself, on a made-up store, with a small model: plan, steps, checkpoint, figures.

    PYTHONPATH=.:kernels:engines python -m bench.gpu.phases [--device cuda|cpu] [--steps 20]

On a GPU eager in fp32 first, then as a run there is by default: bf16, compiled, rollouts captured.
"""

from __future__ import annotations

import argparse
import math
import tempfile
import traceback
from collections.abc import Sequence
from pathlib import Path

import torch

from bench.suites.results import at_least
from fastdreamer.config import Config, load_config
from fastdreamer.latents.synthetic import write_synthetic_store
from fastdreamer.recordings.actions import action_space
from fastdreamer.tools.planning.run_memory import RunMemory
from fastdreamer.training.train import train

WAYS = {
    "eager": ("precision=fp32", "compile=off", "imagination.capture=off"),
    "by default": ("precision=auto", "compile=auto", "imagination.capture=auto"),
}
EPISODES, STEPS = 6, 60  # of the store


def settings(device: str, steps: int, way: str) -> Config:
    """The debug preset, cut short."""
    short = [f"phase{n}.{name}={steps}" for n in (1, 2, 3) for name in ("steps", "checkpoint_every")]
    return load_config("debug", [f"device={device}", *short, "decoder.steps=2", *WAYS[way]])


def trained(config: Config, steps: int, folder: Path) -> int:
    """Trains the phases one on another; returns how many did, and prints what stopped the others."""
    write_synthetic_store(
        folder / "store", config.tokenizer.clock, action_space(config.data.env), EPISODES, STEPS, config.seed
    )
    for number in (1, 2, 3):
        try:
            result = train(config, folder, number, memory=RunMemory())
        except Exception as error:  # compilers and drivers raise anything, and it is this part's answer
            traceback.print_exc()
            print(f"failed: phase {number}: {' '.join(f'{type(error).__name__}: {error}'.split())}", flush=True)
            return number - 1
        figures = {name: value for name, value in result["figures"].items() if isinstance(value, float)}
        if result["steps"] != steps or not figures or not all(map(math.isfinite, figures.values())):
            print(f"failed: phase {number}: {result['steps']} of {steps} steps, {figures}", flush=True)
            return number - 1
    return 3


def main(given: Sequence[str] | None = None) -> int:
    """Prints a verdict a way."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--steps", type=int, default=20)
    chosen = parser.parse_args(given)
    lines = []
    for way in WAYS if chosen.device == "cuda" else ("eager",):
        torch._dynamo.reset()
        with tempfile.TemporaryDirectory(prefix="fastdreamer-gpu-") as folder:
            done = trained(settings(chosen.device, chosen.steps, way), chosen.steps, Path(folder))
        lines.append(at_least(f"phases that train, {way},", done, 3))
    print("\n".join(lines))
    return 1 if any(line.startswith("FAILS") for line in lines) else 0


if __name__ == "__main__":
    raise SystemExit(main())
