"""One way to read recordings of every format: find them, read their labels, and read them whole."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np

from fastdreamer.data import minerl, plain, vpt
from fastdreamer.data.actions import ActionSpace, action_space
from fastdreamer.data.decode import count_frames, decode_video
from fastdreamer.data.find import find_incomplete, find_recordings
from fastdreamer.data.recording import Aligned, Labels, Recording
from fastdreamer.data.trajectory import Trajectory
from fastdreamer.errors import UserError

__all__ = ["find_incomplete", "find_recordings", "guess_space", "read_aligned", "read_labels", "read_recording"]


def guess_space(recording: Recording) -> ActionSpace:
    """The smallest action space that reads the recording; a space of no components for a video without actions.

    Raises:
        DamagedRecording: if none does; the reason is that of the space whose components fit best.
    """
    match recording.format:
        case "vpt":
            return action_space(vpt.SPACE)
        case "video":
            return plain.UNLABELLED
        case _:
            return minerl.guess_space(recording)


def read_labels(
    recording: Recording, space: ActionSpace, skip_null: bool = False, check_metadata: bool = True
) -> Labels:
    """A recording's actions and rewards, checked.

    Args:
        recording: of any format.
        space: what its actions must be; a video without actions takes any.
        skip_null: `data.skip_null`, for VPT.
        check_metadata: `data.check_metadata`, for MineRL.

    Raises:
        DamagedRecording: naming the episode and what is wrong with it.
    """
    match recording.format:
        case "vpt":
            return vpt.read_labels(recording, space, skip_null)
        case "video":
            return plain.PlainLabels(recording, space)
        case _:
            return minerl.read_labels(recording, space, check_metadata)


def read_recording(
    recording: Recording,
    space: ActionSpace,
    frames: bool = True,
    skip_null: bool = False,
    check_metadata: bool = True,
) -> Trajectory:
    """One whole episode in memory, its frames aligned with its rows.

    With `frames` False only the video's packets are counted, no pixel is decoded, and `frames` is (t, 0, 0, 3).

    Raises:
        DamagedRecording: naming the episode and what is wrong with it.
    """
    return read_aligned(recording, space, frames, skip_null, check_metadata).trajectory


def read_aligned(
    recording: Recording,
    space: ActionSpace,
    frames: bool = True,
    skip_null: bool = False,
    check_metadata: bool = True,
) -> Aligned:
    """As `read_recording`, with what was mended."""
    labels = read_labels(recording, space, skip_null, check_metadata)
    try:
        decoded = decode_video(labels.video) if frames else np.zeros((count_frames(labels.video), 0, 0, 3), np.uint8)
    except UserError as error:
        raise recording.damaged(error) from error
    aligned = labels.align(len(decoded))
    if not frames:
        return aligned
    if aligned.retouch is not None:
        for number in aligned.picked:
            aligned.retouch(int(number), decoded[number])
    first, last = int(aligned.picked[0]), int(aligned.picked[-1])
    whole = last - first + 1 == len(aligned.picked)
    pixels = np.ascontiguousarray(decoded[first : last + 1] if whole else decoded[aligned.picked])
    if aligned.sha256 is not None and hashlib.sha256(pixels.data).hexdigest() != aligned.sha256:
        raise recording.damaged("the decoded frames are not the recorded ones (SHA-256 differs)")
    return replace(aligned, trajectory=replace(aligned.trajectory, frames=pixels))
