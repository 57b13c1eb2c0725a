"""Frames of recordings, to be shown beside what was made of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import UInt8

from fastdreamer.config import Config
from fastdreamer.data.actions import action_space
from fastdreamer.errors import UserError
from fastdreamer.training.runs import RunDirectory


class RealFrames:
    """Frames of a recorded episode by its name; None where the recording is gone or cannot be read."""

    def __init__(self, config: Config, run: RunDirectory) -> None:
        self.config, self.space = config, action_space(config.data.env)
        self.recordings: Mapping[str, Any] = {}
        folder = run.recordings(config)
        if folder.is_dir():
            from fastdreamer.data.read import find_recordings

            try:
                self.recordings = {recording.name: recording for recording in find_recordings(folder)}
            except UserError:
                self.recordings = {}

    def __call__(self, name: str) -> UInt8[np.ndarray, "t h w 3"] | None:
        """The episode's frames."""
        if name not in self.recordings:
            return None
        from fastdreamer.data.read import how_to_read, read_recording

        how, size = how_to_read(self.config), self.config.data.frame_size
        try:
            return read_recording(self.recordings[name], self.space, size=size, **how).frames
        except UserError:
            return None
