"""One way to read recordings of every format: find them, read their labels, and read them whole."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np

from fastdreamer.data import minerl
from fastdreamer.data.actions import ActionSpace
from fastdreamer.data.decode import count_frames, decode_video
from fastdreamer.data.recording import Labels, Recording
from fastdreamer.data.trajectory import Trajectory
from fastdreamer.errors import UserError


def find_recordings(root: Path) -> list[Recording]:
    """All recordings under `root`, sorted.

    Raises:
        UserError: if the folder is missing or holds no recording.
    """
    return minerl.find_recordings(root)


def find_incomplete(root: Path) -> list[tuple[str, str]]:
    """Name and reason of what looks like a recording and is none."""
    return minerl.find_incomplete(root)


def guess_space(recording: Recording) -> ActionSpace:
    """The smallest action space that reads the recording.

    Raises:
        DamagedRecording: if none does; the reason is that of the space whose components fit best.
    """
    return minerl.guess_space(recording)


def read_labels(recording: Recording, space: ActionSpace) -> Labels:
    """A recording's actions and rewards, checked.

    Raises:
        DamagedRecording: naming the episode and what is wrong with it.
    """
    return minerl.read_labels(recording, space)


def read_recording(recording: Recording, space: ActionSpace, frames: bool = True) -> Trajectory:
    """One whole episode in memory, its frames aligned with its rows.

    With `frames` False only the video's packets are counted, no pixel is decoded, and `frames` is (t, 0, 0, 3).

    Raises:
        DamagedRecording: naming the episode and what is wrong with it.
    """
    labels = read_labels(recording, space)
    try:
        decoded = decode_video(labels.video) if frames else np.zeros((count_frames(labels.video), 0, 0, 3), np.uint8)
    except UserError as error:
        raise recording.damaged(error) from error
    aligned = labels.align(len(decoded))
    if not frames:
        return aligned.trajectory
    if aligned.retouch is not None:
        for number in aligned.picked:
            aligned.retouch(int(number), decoded[number])
    first, last = int(aligned.picked[0]), int(aligned.picked[-1])
    whole = last - first + 1 == len(aligned.picked)
    pixels = np.ascontiguousarray(decoded[first : last + 1] if whole else decoded[aligned.picked])
    if aligned.sha256 is not None and hashlib.sha256(pixels.data).hexdigest() != aligned.sha256:
        raise recording.damaged("the decoded frames are not the recorded ones (SHA-256 differs)")
    return replace(aligned.trajectory, frames=pixels)
