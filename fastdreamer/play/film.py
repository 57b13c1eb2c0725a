"""A recorded episode to begin from: its actions and rewards, and its frames as they are wanted."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from numpy import ndarray
from torch.nn import functional as F

from fastdreamer.config import Config
from fastdreamer.recordings.actions import action_space
from fastdreamer.recordings.read import glance, how_to_read, read_frames, read_recording
from fastdreamer.recordings.recording import Recording
from fastdreamer.recordings.trajectory import Trajectory
from fastdreamer.shapes import LatentClock

MOST_BYTES = 2**28
"""Frames held at once; of a larger recording a part is decoded when it is come to."""


class Footage:
    """A recording; its labels are read at once, its frames in parts of `MOST_BYTES`.

    Raises:
        UserError: here and wherever frames are asked for, if it cannot be read.
    """

    def __init__(self, recording: Recording, config: Config, clock: LatentClock, most_bytes: int = MOST_BYTES) -> None:
        self.recording, self.clock = recording, clock
        self._space, self._how = action_space(config.data.env), how_to_read(config)
        self.labels: Trajectory = read_recording(recording, self._space, frames=False, **self._how)
        self.count, height, width = glance(recording, self._space, **self._how)
        self._at_once = max(1, most_bytes // (height * width * 3))
        self._first, self._held = 0, np.zeros((0, height, width, 3), np.uint8)

    @property
    def name(self) -> str:
        """The recording's name."""
        return self.recording.name

    @property
    def metadata(self) -> dict[str, Any]:
        """What it says of itself."""
        return self.labels.metadata

    @cached_property
    def steps(self) -> int:
        """Latent steps."""
        return self.clock.steps(self.count)

    @property
    def last(self) -> int:
        """The last latent step all of whose frames there are, which can be begun from."""
        return (self.count - 1) // self.clock.frames_per_latent

    def frames(self, first: int, last: int) -> UInt8[ndarray, "n h w 3"]:
        """The frames first .. last-1; fewer where the recording ends before."""
        last = min(last, self.count)
        if not self._first <= first <= last <= self._first + len(self._held):
            end = min(self.count, max(last, first + self._at_once))
            self._first = first if end - first == self._at_once or first == 0 else max(0, end - self._at_once)
            self._held = read_frames(self.recording, self._space, slice(self._first, end), **self._how)[1]
        return self._held[first - self._first : last - self._first]

    def step_frames(self, step: int) -> UInt8[ndarray, "c h w 3"]:
        """The frames of a latent step: one of step 0; at the end padded with the last one."""
        c = self.clock.frames_per_latent
        if step == 0:
            return self.frames(0, 1)
        found = self.frames(c * (step - 1) + 1, c * step + 1)
        return np.concatenate([found, np.repeat(found[-1:], c - len(found), 0)]) if len(found) < c else found

    def chunk(self, step: int) -> UInt8[ndarray, "c k"]:
        """The recorded actions that lead into a latent step; fewer than c at the end, none before the first."""
        c = self.clock.frames_per_latent
        return self.labels.actions[c * (step - 1) : c * step] if step else self.labels.actions[:0]

    def filmstrip(self, most: int, size: int) -> tuple[list[int], UInt8[ndarray, "f s s 3"]]:
        """Spread at most `most` latent steps over the episode; show the last frame of each at `size` pixels a side."""
        steps = np.unique(np.linspace(0, self.last, most).round().astype(int)).tolist()
        rows = [step * self.clock.frames_per_latent for step in steps]

        def keep(first: int, frames: torch.Tensor) -> torch.Tensor:
            own = [row - first for row in rows if first <= row < first + len(frames)]
            return torch.from_numpy(resized(frames[own].numpy(), size))

        return steps, read_frames(self.recording, self._space, keep=keep, **self._how)[1]


def resized(frames: UInt8[ndarray, "n h w 3"], size: int) -> UInt8[ndarray, "n s s 3"]:
    """Frames averaged over areas to `size` x `size`."""
    if frames.shape[1:3] == (size, size) or not len(frames):
        return np.ascontiguousarray(frames) if len(frames) else np.zeros((0, size, size, 3), np.uint8)
    pixels = torch.from_numpy(np.ascontiguousarray(frames)).movedim(-1, 1).float()
    return np.asarray(F.interpolate(pixels, size=(size, size), mode="area").round().to(torch.uint8).movedim(1, -1))
