"""What many episodes cost: opening, sampling and inspecting a store of them, and encoding them one after another.

    PYTHONPATH=.:kernels:engines python -m bench.suites many_episodes [--episodes 100000] [--recordings 3000]

A made-up store of --episodes of --steps latent steps each (8 KB at 16) is written, and then, each in a process of its
own: inspected; opened into RAM; opened on disk (data.memory_limit_gb=0). Opened ones give 500 batches of 16 crops of 8
steps. Seconds are of the clock and of the processor, memory is what the process holds more at its peak than before.
At last --recordings of 9 frames are encoded (`debug`): milliseconds an episode, a line a tenth of them. Not a gate.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from bench.suites.data_path import write_video
from bench.timing import machine
from fastdreamer.config import SamplingConfig, load_config
from fastdreamer.encoding.manifest_writer import Entry, ManifestWriter
from fastdreamer.encoding.pipeline import encode_recordings
from fastdreamer.errors import UserError
from fastdreamer.latents.crop_sampler import CropSampler
from fastdreamer.latents.manifest import FOLDER, FORMAT, described, write_manifest
from fastdreamer.latents.splits import natural_split
from fastdreamer.latents.store import SYNTHETIC, LatentStore
from fastdreamer.latents.store_inspection import inspect_store
from fastdreamer.latents.synthetic import made_up_episode
from fastdreamer.recordings.actions import action_space
from fastdreamer.shapes import CHANNELS, TOKENS

KINDS, DRAWS, TENTHS = 16, 500, 10
PARTS = ("inspect", "ram", "disk")

OPTIONS: dict[str, dict[str, Any]] = {
    "episodes": {"type": int, "default": 100_000, "help": "of the store; 0: no store"},
    "steps": {"type": int, "default": 16, "help": "latent steps of each"},
    "recordings": {"type": int, "default": 3_000, "help": "to encode; 0: none"},
    "part": {"choices": PARTS, "help": argparse.SUPPRESS},
    "folder": {"type": Path, "help": "where the store is written for a while"},
}


def run(chosen: argparse.Namespace) -> None:
    """Measure and print."""
    if chosen.part:
        return measure(chosen.part, chosen.folder)
    if min(chosen.episodes, chosen.recordings) < 0 or chosen.steps < 2 or 0 < chosen.recordings <= TENTHS:
        raise UserError(f"give --episodes and --recordings of {TENTHS + 1} or more, or 0, and --steps of 2 or more")
    print(*(f"{name}: {value}" for name, value in machine().items()), sep="\n", flush=True)
    with tempfile.TemporaryDirectory(dir=chosen.folder) as folder:
        if chosen.episodes:
            write_store(Path(folder), chosen.episodes, chosen.steps)
            for part in PARTS:
                command = [sys.executable, "-m", "bench.suites", "many_episodes", "--part", part, "--folder", folder]
                subprocess.run(command, check=True)
    with tempfile.TemporaryDirectory(dir=chosen.folder) as folder:
        if chosen.recordings:
            encode(Path(folder), chosen.recordings)


def write_store(path: Path, episodes: int, steps: int) -> None:
    """A store of so many episodes, of a few kinds, without waiting for the disk."""
    space, generator = action_space("crafter"), torch.Generator().manual_seed(0)
    (path / FOLDER).mkdir()
    kinds = []
    for _ in range(KINDS):
        latents = torch.randn(steps, TOKENS, CHANNELS, generator=generator)
        actions = torch.randint(0, space.sizes[0], (steps - 1, 1), generator=generator)
        kinds.append(made_up_episode("", "train", latents, actions, ends=True).to_bytes())
    hashes = [sha256(kind).hexdigest() for kind in kinds]
    entries = {}
    for number in range(episodes):
        name = f"synthetic-{number:06d}"
        (path / FOLDER / f"{name}.safetensors").write_bytes(kinds[number % KINDS])
        source = sha256(name.encode()).hexdigest()
        entries[name] = {
            "file": f"{name}.safetensors", "sha256": hashes[number % KINDS], "frames": steps, "steps": steps,
            "source_sha256": source, "video_sha256": source, "sampled_sha256": source, "path": f"{name}.mp4",
            "split": natural_split(name, 0.1), "labelled": True, "rewarded": True, "task": 0, "counters": [],
            "decoder": "pyav", "frames_per_s": 20.0, "alignment": 1,
        }  # fmt: skip
    key = {"tokenizer": SYNTHETIC, "frames_per_latent": 1, "window": 1, "actions": space.fingerprint}
    write_manifest(path, {"format": FORMAT, "key": key, **described(space), "tasks": ["made up"], "episodes": entries})


def measure(part: str, path: Path) -> None:
    """One part, in this process."""
    torch.set_num_threads(1)
    if part == "inspect":
        timed("inspect", lambda: inspect_store(path))
        return
    store = timed(f"open, {part}", lambda: LatentStore.open(path, memory_limit_gb=0 if part == "disk" else 1e6))
    sampling = SamplingConfig(short_window=4, reward_weighted=0.5)
    made = timed("  sampler", lambda: CropSampler(store.split("train"), store.clock, 8, 16, 0, 1.0, sampling))
    timed(f"  {DRAWS} batches", lambda: [made.batch(number) for number in range(DRAWS)][-1])
    timed("  statistics", store.statistics)


def timed(what: str, call: Callable[[], Any]) -> Any:
    """What a call returns; prints what it took."""
    began, worked, held = time.perf_counter(), time.process_time(), memory("VmRSS")
    result = call()
    took, worked, peak = time.perf_counter() - began, time.process_time() - worked, memory("VmHWM")
    print(f"{what:<16} {took:8.2f} s, {worked:8.2f} s of the processor, {max(0, peak - held):8,.0f} MiB", flush=True)
    return result


def memory(which: str) -> float:
    """MiB of this process: VmRSS is now, VmHWM its peak so far."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{which}:")) / 1024


def encode(folder: Path, count: int) -> None:
    """Encode tiny recordings that differ in a number behind their video."""
    video = folder / "video.mp4"
    write_video(video, 9, 64, 64)
    data = video.read_bytes()
    video.unlink()
    for number in range(count):
        tail = (12).to_bytes(4, "big") + b"free" + number.to_bytes(4, "big")  # a box that players skip
        path = folder / "recordings" / f"tiny-{number:06d}.mp4"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data + tail)
    stamps: list[tuple[float, float]] = []
    enter = ManifestWriter.enter

    def noted(self: ManifestWriter, entry: Entry) -> None:
        enter(self, entry)
        stamps.append((time.perf_counter(), time.process_time()))

    with mock.patch.object(ManifestWriter, "enter", noted):
        encode_recordings(load_config("debug", ["device=cpu"]), folder / "recordings", folder / "store")
    for tenth in range(TENTHS):
        part = stamps[tenth * (count - 1) // TENTHS : (tenth + 1) * (count - 1) // TENTHS + 1]
        wall, worked = ((part[-1][kind] - part[0][kind]) / (len(part) - 1) * 1e3 for kind in (0, 1))
        print(f"encode, tenth {tenth + 1:2}: {wall:.2f} ms an episode, {worked:.2f} ms of the processor", flush=True)
    size = sum(os.stat(folder / "store" / name).st_size for name in os.listdir(folder / "store"))
    print(f"files beside the episodes: {size / count:,.0f} bytes an episode", flush=True)
