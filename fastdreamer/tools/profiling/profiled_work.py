"""What is profiled: steps of a phase, of `encode` or of imagination, on a run's data and weights or on made-up ones."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8

from fastdreamer.config import Config
from fastdreamer.device import Backend, choose_device
from fastdreamer.errors import UserError
from fastdreamer.latents.store import LatentStore
from fastdreamer.latents.synthetic import write_synthetic_store
from fastdreamer.recordings.actions import action_space
from fastdreamer.recordings.find import find_recordings
from fastdreamer.recordings.recording import Recording
from fastdreamer.run.directory import RunDirectory
from fastdreamer.training.build import build_phase
from fastdreamer.training.imagination_phase import ImaginationPhase
from fastdreamer.training.models import fill
from fastdreamer.training.phase import Phase
from fastdreamer.training.step import Update

TARGETS = {"1": "phase1", "2": "phase2", "3": "phase3", "encode": "encode", "imagine": "imagine"}
EPISODES, WINDOWS = 8, 4  # the made-up store's episodes, and windows that each is long


@dataclass(frozen=True)
class ProfiledSteps:
    """A step that can be taken again and again.

    Attributes:
        name: phase1, phase2, phase3, encode or imagine; files are named after it.
        about: what the steps run on, in one line.
        step: takes the next one.
        device: the device that it runs on.
    """

    name: str
    about: str
    step: Callable[[], object]
    device: torch.device

    def wait(self) -> None:
        """Wait until the GPU has done what was asked of it."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def profiled_steps(work: ProfiledSteps, count: int, after: Callable[[], object] = lambda: None) -> list[float]:
    """Takes `count` steps and calls `after` behind each; returns how long each took in seconds.

    Flame graphs are searched for this function's name: what lies under it is the work.
    """
    seconds = []
    for _ in range(count):
        began = time.perf_counter()
        work.step()
        work.wait()
        seconds.append(time.perf_counter() - began)
        after()
    return seconds


@contextmanager
def open_work(config: Config, target: str, run_dir: Path | None) -> Iterator[ProfiledSteps]:
    """The work that `--phase` names: the run's own data and newest weights, or made-up ones without a run.

    Nothing is written into the run.

    Raises:
        UserError: for a run that lacks what the work needs.
    """
    backend = choose_device(config)
    torch.manual_seed(config.seed)
    with tempfile.TemporaryDirectory(prefix="fastdreamer-profile-") as folder:
        if target == "encode":
            yield _encoding(config, run_dir, Path(folder), backend)
            return
        number = 3 if target == "imagine" else int(target)
        phase, about = _phase(config, number, run_dir, Path(folder), backend)
        with phase.loader or nullcontext():
            step = _rollouts(phase) if target == "imagine" else _updates(phase, config, number, backend)
            yield ProfiledSteps(TARGETS[target], about, step, backend.device)


def _updates(phase: Phase[Any], config: Config, number: int, backend: Backend) -> Callable[[], object]:
    """Optimisation steps from the middle of the training on: half-steps run, and the policy trains."""
    train = config.phase(number)
    begins = round(config.forcing.boot_warmup * train.steps) if number == 1 else config.imagination.critic_steps
    done = max(train.steps // 2, begins)
    assert phase.loader is not None
    phase.loader.set_state(torch.tensor([done * train.accumulate]))
    phase.model.train()
    update = Update(phase, train, backend)

    def step() -> None:
        nonlocal done
        update(done)
        done += 1

    return step


def _rollouts(phase: Phase[Any]) -> Callable[[], object]:
    assert isinstance(phase, ImaginationPhase)

    def step() -> None:
        with torch.no_grad():
            phase.imagine(phase.loader.draw())

    return step


def _phase(
    config: Config, number: int, run_dir: Path | None, scratch: Path, backend: Backend
) -> tuple[Phase[Any], str]:
    """The phase, and a line on what it runs."""
    parent = None
    if run_dir is None:
        steps = WINDOWS * config.dynamics.window
        space = action_space(config.data.env)
        write_synthetic_store(scratch / "store", config.tokenizer.clock, space, EPISODES, steps, config.seed)
        store, about = LatentStore.open(scratch / "store"), "made-up latents, random weights"
    else:
        run = RunDirectory(run_dir)
        store = LatentStore.open(run.store(config), memory_limit_gb=config.data.memory_limit_gb)
        newest = number if run.has_phase(number) else number - 1
        parent = run.load(newest, config) if newest else None
        about = f"{run.store(config)}, " + (f"weights of phase {newest}" if parent else "random weights")
    phase = build_phase(config, number, store, parent, backend, is_fitted=False)
    if parent is not None and parent.phase == number:
        fill(phase.model, parent)
    return phase, about


def _encoding(config: Config, run_dir: Path | None, scratch: Path, backend: Backend) -> ProfiledSteps:
    """A step encodes one recording, by the command's own code, into a store of its own."""
    from fastdreamer.encoding.pipeline import encode_recordings
    from fastdreamer.tokenizer.engines.installed import describe, open_tokenizer

    recordings, about = recordings_for(config, run_dir, scratch)
    tokenizer = open_tokenizer(config, backend.device)
    done = 0

    def step() -> None:
        nonlocal done
        recording, number = recordings[done % len(recordings)], done
        done += 1
        alone = linked(recording, scratch / f"recordings-{number}")
        try:
            # The progress of a single recording is none, and the lines on tokenizer and decoder are always the same.
            with open(os.devnull, "w", encoding="ascii") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
                encode_recordings(config, alone, scratch / f"store-{number}", tokenizer)
        except UserError:
            if len(recordings) == 1:
                raise
            recordings.remove(recording)  # `inspect` says why it cannot be read; the others go on
            step()

    return ProfiledSteps("encode", f"{about}; {describe(tokenizer)}", step, backend.device)


MADE_UP = 3
FRAMES, CLIPS = 257, 4  # a made-up recording's frames of one-frame windows; else that many windows


def recordings_for(config: Config, run_dir: Path | None, scratch: Path) -> tuple[list[Recording], str]:
    """Recordings, and a line that says which."""
    if run_dir is not None:
        found = find_recordings(RunDirectory(run_dir).recordings(config))
        return found, f"{len(found)} recordings of {run_dir}, one a step"
    from fastdreamer.recordings.trajectory import Trajectory
    from fastdreamer.recordings.writer import write_recording  # PyAV: only where videos are written

    clock, space = config.tokenizer.clock, action_space(config.data.env)
    frames = FRAMES if clock.window == 1 else 1 + CLIPS * (clock.window - 1)
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
