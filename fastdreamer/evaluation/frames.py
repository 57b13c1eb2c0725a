"""Frames of recordings, to be shown beside what was made of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import UInt8

from fastdreamer.config import Config
from fastdreamer.errors import UserError
from fastdreamer.latents.store import read_manifest
from fastdreamer.recordings.actions import action_space
from fastdreamer.run.directory import RunDirectory


class RealFrames:
    """Frames of a recorded episode by its name; None where the recording is gone, has changed or cannot be read."""

    def __init__(self, config: Config, run: RunDirectory) -> None:
        self.config, self.space = config, action_space(config.data.env)
        self.recordings: Mapping[str, Any] = {}
        self.entries: Mapping[str, Any] = {}
        folder = run.recordings(config)
        if folder.is_dir():
            from fastdreamer.recordings.identity import behind
            from fastdreamer.recordings.read import find_recordings

            try:
                self.entries = read_manifest(run.store(config))["episodes"]
                self.recordings = behind(find_recordings(folder), self.entries, folder)
            except UserError:
                self.recordings = {}

    def __call__(self, name: str) -> UInt8[np.ndarray, "t h w 3"] | None:
        """The frames of the named episode, or None."""
        if name not in self.recordings:
            return None
        from fastdreamer.recordings.identity import check_unchanged
        from fastdreamer.recordings.read import how_to_read, read_recording

        how, size = how_to_read(self.config), self.config.data.frame_size
        try:
            check_unchanged(self.recordings[name], self.entries[name])
            return read_recording(self.recordings[name], self.space, size=size, **how).frames
        except UserError as error:
            print(f"pictures: {error}; its frames are not shown", flush=True)
            return None
