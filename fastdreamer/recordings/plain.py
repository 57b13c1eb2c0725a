"""Videos without actions: frames to learn dynamics from, marked as unlabelled."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from fastdreamer.recordings.actions import ActionSpace
from fastdreamer.recordings.recording import Aligned, Recording
from fastdreamer.recordings.trajectory import Trajectory

ENDINGS = (".mp4", ".mkv", ".webm", ".avi", ".mov")  # what PyAV opens and people have

UNLABELLED = ActionSpace("unlabelled", ())  # the answer to what actions are in a video


@dataclass(frozen=True)
class PlainLabels:
    """No actions (all no-op), no rewards, no end; every frame counts."""

    recording: Recording
    space: ActionSpace

    def align(self, visible: int) -> Aligned:
        """Align all frames as they are.

        Raises:
            DamagedRecording: if there is no step, with fewer than two frames.
        """
        if visible < 2:
            raise self.recording.damaged(f"{self.recording.video.name} has {visible} frames; one step needs 2")
        frames = np.zeros((visible, 0, 0, 3), np.uint8)
        actions = np.tile(np.array(self.space.noop, np.uint8), (visible - 1, 1))
        trajectory = replace(Trajectory.unpaid(self.recording.name, frames, actions), labelled=False, rewarded=False)
        return Aligned(trajectory, np.arange(visible), is_by_number=True)
