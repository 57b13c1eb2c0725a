"""Does `encode` cost what its slowest stage costs? Decoding real video beside an encoder that takes as long.

    PYTHONPATH=.:kernels:engines python -m bench.suites overlap [--episodes 12] [--steps 1500] [--rounds 5]

Decoding is real (H.264 of 64 x 64, PyAV, one thread). The encoder is a stand-in that sleeps, as a host does while a
GPU works, as long for all chunks as decoding alone took in the same round. Prints wall time over the slower stage.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from io import StringIO
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fastdreamer.config import Config, TokenizerConfig
from fastdreamer.encoding.pipeline import encode_recordings
from fastdreamer.recordings.actions import action_space
from fastdreamer.recordings.trajectory import Trajectory
from fastdreamer.recordings.writer import write_recording
from fastdreamer.tokenizer.cosmos import load_autoencoder
from fastdreamer.tokenizer.frozen import FrozenTokenizer

TINY = TokenizerConfig(
    weights="random", frames_per_latent=8, window=33, encoder_channels=(8,) * 4, decoder_channels=(8,) * 4
)
CONFIG = Config(device="cpu", tokenizer=TINY)
CLIPS = 4  # windows a chunk


class SleepingTokenizer(FrozenTokenizer):
    """A tokenizer that takes `seconds_a_chunk`, holds no core meanwhile, and returns zeros."""

    seconds_a_chunk = 0.0
    chunks = 0

    @property
    def windows_at_once(self) -> int:
        """A few windows, so that an episode has many chunks."""
        return CLIPS

    def encode_windows(self, frames: Tensor) -> Tensor:
        """Sleep as long as a chunk takes, and return zeros."""
        time.sleep(self.seconds_a_chunk)
        self.chunks += 1
        return torch.zeros(1 + (len(frames) - 1) // 8, 16, 16)


def write_episodes(root: Path, episodes: int, steps: int) -> None:
    """Recordings whose video costs something to decode."""
    space, rng = action_space("crafter"), np.random.default_rng(0)
    for number in range(episodes):
        base = rng.integers(0, 256, (64 + steps // 8, 64, 3), dtype=np.uint8)
        frames = np.stack([base[i // 8 : i // 8 + 64] for i in range(steps + 1)])
        frames[:, ::4, ::4] = rng.integers(0, 256, frames[:, ::4, ::4].shape, dtype=np.uint8)
        trajectory = Trajectory.unpaid(f"v3_bench_overlap-{number}_0-{steps}", frames, np.zeros((steps, 1), np.uint8))
        write_recording(root / "Bench" / trajectory.name, trajectory, space, {})


def wall(recordings: Path, tokenizer: FrozenTokenizer, threads: int) -> float:
    """Seconds of one whole encode into a new store."""
    config = replace(CONFIG, data=replace(CONFIG.data, decode_threads=threads))
    with tempfile.TemporaryDirectory() as store, redirect_stderr(StringIO()), redirect_stdout(StringIO()):
        began = time.perf_counter()
        encode_recordings(config, recordings, Path(store), tokenizer)
        return time.perf_counter() - began


DEFAULTS = {"episodes": 12, "steps": 1500, "rounds": 5}
OPTIONS = {name: {"type": int, "default": value} for name, value in DEFAULTS.items()}


def run(given: argparse.Namespace) -> None:
    """Print a line a round and the median."""
    tokenizer = SleepingTokenizer(load_autoencoder(TINY), TINY)
    with tempfile.TemporaryDirectory() as folder:
        recordings = Path(folder)
        write_episodes(recordings, given.episodes, given.steps)
        tokenizer.chunks, tokenizer.seconds_a_chunk = 0, 0.0
        wall(recordings, tokenizer, 1)
        chunks, ratios = tokenizer.chunks, []
        for number in range(given.rounds):
            tokenizer.seconds_a_chunk = 0.0
            decode = wall(recordings, tokenizer, 1)
            tokenizer.seconds_a_chunk = decode / chunks
            both = wall(recordings, tokenizer, 1)
            ratios.append(both / decode)
            print(f"round {number}: decode {decode:.3f} s, encode {decode:.3f} s, both {both:.3f} s: {ratios[-1]:.3f}")
        frames = given.episodes * (given.steps + 1)
        print(f"median {statistics.median(ratios):.3f} of the slower stage; {frames / decode:,.0f} frames/s decoded")
