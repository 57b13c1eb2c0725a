"""Recordings to profile `encode` with, one a step: the run's first ones, or made-up ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from fastdreamer.config import Config
from fastdreamer.recordings.actions import action_space
from fastdreamer.recordings.find import find_recordings
from fastdreamer.recordings.recording import Recording
from fastdreamer.run.directory import RunDirectory

MADE_UP = 3
FRAMES, WINDOWS = 257, 4  # a made-up recording's frames of one-frame windows; else that many windows


def recordings_for(config: Config, run_dir: Path | None, scratch: Path) -> tuple[list[Recording], str]:
    """Recordings, and a line that says which."""
    if run_dir is not None:
        found = find_recordings(RunDirectory(run_dir).recordings(config))
        return found, f"{len(found)} recordings of {run_dir}, one a step"
    from fastdreamer.recordings.trajectory import Trajectory
    from fastdreamer.recordings.writer import write_recording  # PyAV: only where videos are written

    clock, space = config.tokenizer.clock, action_space(config.data.env)
    frames = FRAMES if clock.window == 1 else 1 + WINDOWS * (clock.window - 1)
    generator = np.random.default_rng(config.seed)
    for number in range(MADE_UP):
        pixels = waves(frames, config.data.frame_size, number)
        actions = np.stack([generator.integers(size, size=frames - 1) for size in space.sizes], 1).astype(np.uint8)
        episode = Trajectory.unpaid(f"waves-{number}", pixels, actions)
        folder = scratch / "made-up" / "Profile-v0" / f"v3_waves_made_up-{number}_0-{frames - 1}"
        write_recording(folder, episode, space, {})
    return find_recordings(scratch / "made-up"), f"made-up recordings of {frames} frames, one a step"


def waves(frames: int, size: int, number: int) -> UInt8[np.ndarray, "t h w 3"]:
    """Slow waves, about as smooth as a game's picture."""
    y, x = np.mgrid[:size, :size]
    phases = [[x / 9 + t / 5, y / 7 - t / 11, (x + y) / 13 + t / 7 + number] for t in range(frames)]
    return np.stack([np.stack([127.5 + 127.5 * np.sin(p) for p in three], -1) for three in phases]).astype(np.uint8)


def linked(recording: Recording, folder: Path) -> Path:
    """A new root that holds this recording alone, as links to its files; returns it."""
    place = folder / recording.env
    place.mkdir(parents=True)
    beside = [recording.path.with_suffix(".jsonl")] if recording.format == "vpt" else []
    for path in (recording.path, *beside):
        (place / path.name).symlink_to(path.absolute())
    return folder
