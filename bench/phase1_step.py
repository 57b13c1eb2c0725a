"""Seconds of one phase-1 optimisation step (forward, half-steps, backward) of a preset on synthetic latents.

    PYTHONPATH=.:kernels:engines python bench/phase1_step.py crafter [dotted overrides]

Prints a line a precision: median wall and CPU seconds over the repeats. Not a gate.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch

from fastdreamer.data.actions import action_space
from fastdreamer.data.feed import Feed
from fastdreamer.data.latents import LatentStore
from fastdreamer.data.sampler import CropSampler
from fastdreamer.data.synthetic import write_synthetic_store
from fastdreamer.device import Backend
from fastdreamer.dynamics.world_model import WorldModel
from fastdreamer.settings import load_config
from fastdreamer.training.world_model import WorldModelPhase

REPEATS = 7


def main(preset: str, overrides: list[str]) -> None:
    """Measures and prints."""
    config = load_config(preset, overrides)
    space = action_space(config.data.env)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with tempfile.TemporaryDirectory() as folder:
        write_synthetic_store(Path(folder), config.tokenizer.clock, space, 4, 4 * config.dynamics.window, 0)
        episodes = LatentStore.open(Path(folder)).split("train")
    world = WorldModel.build(config, space.sizes).to(device)
    sampler = CropSampler(
        episodes, config.tokenizer.clock, config.dynamics.window, config.phase1.batch_size, config.seed
    )
    phase = WorldModelPhase(config, world, Feed(sampler, device), Backend(device, "fp32", config.compile == "on"))
    phase.first_boot = 0
    print(f"{sum(p.numel() for p in world.parameters()):,} parameters on {device}, {torch.get_num_threads()} threads")
    for precision in ("fp32", "bf16"):
        walls, cpus = [], []
        for _ in range(REPEATS + 1):
            wall, cpu = time.perf_counter(), time.process_time()
            with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
                loss, figures = phase.loss(phase.draw(), 0)
            loss.backward()
            float(loss.detach())  # waits for a card
            walls.append(time.perf_counter() - wall)
            cpus.append(time.process_time() - cpu)
        wall, cpu = statistics.median(walls[1:]), statistics.median(cpus[1:])
        print(f"{precision}: {wall:.3f} s wall, {cpu:.3f} s CPU a step (median of {REPEATS})")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "crafter", sys.argv[2:])
