"""Milliseconds of a draw of phase 1's crops, and the share of a training run's time that goes by waiting for them.

    PYTHONPATH=.:kernels:engines python -m bench.suites sampling [--steps 40]

First a line a preset: the store's size, making the sampler, and a draw with plain settings and with every option on
(median and minimum). Then --steps steps of phase 1 of `debug` and `crafter` on a store on disk,
without and with batches made ahead. On a GPU the draws are from both homes. Not a gate.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch

from bench.phases import made_up
from fastdreamer.config import Config, SamplingConfig, load_config
from fastdreamer.latents.crop_sampler import CropSampler
from fastdreamer.latents.episode import Episode
from fastdreamer.latents.loader import Loader
from fastdreamer.latents.synthetic import write_synthetic_store
from fastdreamer.recordings.actions import action_space
from fastdreamer.run.metrics import read_metrics
from fastdreamer.training.train import train

DRAWS = 300
STORES = (("crafter", 80, 250), ("minerl_cosmos", 300, 250))  # preset, episodes, steps of each
EVERY_OPTION = SamplingConfig(short_window=8, single_step=0.05, reward_weighted=0.5, unlabelled=0.5)


OPTIONS = {"steps": {"type": int, "default": 40, "help": "of phase 1"}}


def run(chosen: argparse.Namespace) -> None:
    """Measure and print."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    for preset, episodes, length in STORES:
        config = load_config(preset, [])
        for home in sorted({"cpu", device.type}):
            for name, sampling in (("plain", SamplingConfig()), ("every option", EVERY_OPTION)):
                made = made_up(config, episodes, length)
                plain_video = 0 if name == "plain" else episodes // 2
                made[:plain_video] = [replace(episode, labelled=False) for episode in made[:plain_video]]
                print(f"{preset}, store on {home}, {name}: {draw(config, made, sampling, device, home)}", flush=True)
    for preset in ("debug", "crafter"):
        for ahead in (0, 2):
            mapped = [f"sampling.prefetch={ahead}", "data.resident=ram", "data.memory_limit_gb=0"]
            config = load_config(preset, [*mapped, f"phase1.steps={chosen.steps}"])
            print(f"{preset}, {ahead} batches made ahead: {trained(config)}", flush=True)


def draw(config: Config, episodes: list[Episode], sampling: SamplingConfig, device: torch.device, home: str) -> str:
    """Time a set-up and its draws, and say them in a line with the size."""
    size = sum(e.latents.nbytes for e in episodes) / 2**20
    began = time.perf_counter()
    clock, window, batch = config.tokenizer.clock, config.dynamics.window, config.phase1.batch_size
    sampler = CropSampler(episodes, clock, window, batch, 0, 1.0, sampling, torch.device(home))
    made_s = time.perf_counter() - began
    loader, times = Loader(sampler, device), []
    for _ in range(DRAWS):
        began = time.perf_counter()
        loader.draw()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(1e3 * (time.perf_counter() - began))
    return f"{size:.0f} MiB, made in {made_s:.2f} s, {statistics.median(times):.3f} ms a draw, {min(times):.3f} at best"


def trained(config: Config) -> str:
    """A phase-1 run on a synthetic store: milliseconds a step and the share spent waiting."""
    with tempfile.TemporaryDirectory() as folder:
        space = action_space(config.data.env)
        write_synthetic_store(Path(folder) / "store", config.tokenizer.clock, space, 6, 100, 0)
        result = train(config, Path(folder), 1)
        rows = read_metrics(Path(folder))[1:]
    share = statistics.median(row["data/wait_share"] for row in rows)
    return f"{1e3 * result['seconds'] / result['steps']:.1f} ms a step, {share:.2%} of it waiting"
