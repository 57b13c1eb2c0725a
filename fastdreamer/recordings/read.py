"""One way to read recordings of every format: find them, read their labels, and read them whole."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8

from fastdreamer.config import Config
from fastdreamer.recordings import minerl, plain, vpt
from fastdreamer.recordings.actions import ActionSpace, action_space
from fastdreamer.recordings.decode import BLOCK, count_frames, decode_blocks, frame_times
from fastdreamer.recordings.find import find_incomplete, find_recordings
from fastdreamer.recordings.frame_selection import Frames, align, selections
from fastdreamer.recordings.frame_times import FrameTimes
from fastdreamer.recordings.recording import Aligned, Labels, Recording
from fastdreamer.recordings.trajectory import Trajectory

__all__ = ["find_incomplete", "find_recordings"]

Keep = Callable[[int, Frames], Frames]  # what is kept of a block of frames whose first is of that row


def how_to_read(config: Config) -> dict[str, Any]:
    """The settings of `data.` that the functions below take."""
    return {"skip_null": config.data.skip_null, "check_metadata": config.data.check_metadata}


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
    with recording.reading():
        return minerl.guess_space(recording)


def read_labels(
    recording: Recording, space: ActionSpace, skip_null: bool = False, check_metadata: bool = True
) -> Labels:
    """A recording's actions and rewards, checked.

    Args:
        recording: a recording of any format.
        space: what its actions must be; a video without actions takes any.
        skip_null: `data.skip_null`, for VPT.
        check_metadata: `data.check_metadata`, for MineRL.

    Raises:
        DamagedRecording: naming the episode and what is wrong with it.
    """
    with recording.reading():
        match recording.format:
            case "vpt":
                return vpt.read_labels(recording, space, skip_null)
            case "video":
                return plain.PlainLabels(recording, space)
            case _:
                return minerl.read_labels(recording, space, check_metadata)


def read_recording(
    recording: Recording, space: ActionSpace, frames: bool = True, size: int = 0, **how: Any
) -> Trajectory:
    """One whole episode in memory, its frames aligned with its rows.

    With `frames` False only the video's packets are counted, no pixel is decoded, and `frames` is (t, 0, 0, 3). With
    `size` they are averaged over areas to size x size, for pictures. `how` is `read_labels`'.

    Raises:
        DamagedRecording: naming the episode and what is wrong with it.
    """
    return read_aligned(recording, space, frames, size, **how).trajectory


def read_aligned(recording: Recording, space: ActionSpace, frames: bool = True, size: int = 0, **how: Any) -> Aligned:
    """Read as `read_recording` does, and say what was mended."""
    if not frames:
        labels = read_labels(recording, space, **how)
        with recording.reading():
            return labels.align(count_frames(recording.video))
    aligned, pixels = read_frames(recording, space, size=size, **how)
    return replace(aligned, trajectory=replace(aligned.trajectory, frames=pixels))


def read_frames(
    recording: Recording,
    space: ActionSpace,
    rows: slice = slice(None),
    size: int = 0,
    keep: Keep | None = None,
    **how: Any,
) -> tuple[Aligned, UInt8[np.ndarray, "n h w 3"]]:
    """An episode, and the frames of some of its rows: all are decoded, and no more than those are held in memory.

    Args:
        recording: a recording of any format.
        space: see `read_labels`, whose other arguments follow.
        rows: the frames to keep.
        size: pixels a side to which they are averaged over areas; 0 leaves them as they are.
        keep: makes of each block of them what is kept.

    Raises:
        DamagedRecording: naming the episode and what is wrong with it, wherever in it.
    """
    labels = read_labels(recording, space, **how)
    with recording.reading():
        for selection in selections(labels, count_frames(recording.video), whole=not size):
            aligned, kept, row = selection.aligned, [], 0
            wanted = range(len(aligned.picked))[rows]
            for part in selection.frames(map(torch.from_numpy, decode_blocks(recording.video, BLOCK, size))):
                first, last = max(wanted.start - row, 0), max(wanted.stop - row, 0)
                some = part[first:last].clone() if len(wanted) < len(aligned.picked) else part
                kept.append(some if keep is None else keep(row, some))
                row += len(part)
        return aligned, torch.cat(kept).numpy()


def glance(recording: Recording, space: ActionSpace, **how: Any) -> tuple[int, int, int]:
    """An episode's frames, their height and their width, from its packets and its first frame.

    Raises:
        DamagedRecording: naming the episode and what is wrong with it.
    """
    labels = read_labels(recording, space, **how)
    with recording.reading():
        aligned = align(labels, count_frames(recording.video))
        height, width, _ = next(decode_blocks(recording.video, 1))[0].shape
        return len(aligned.picked), height, width


def check_recording(
    recording: Recording, space: ActionSpace, decode: bool = True, **how: Any
) -> tuple[Aligned, tuple[int, int], FrameTimes]:
    """What a recording is, its frames' height and width (0, 0 if not decoded), and when its video shows which.

    No frames are kept.

    Raises:
        DamagedRecording: naming the episode and what is wrong with it.
    """
    if decode:
        aligned, first = read_frames(recording, space, slice(1), **how)
        size = (first.shape[1], first.shape[2])
    else:
        aligned, size = read_aligned(recording, space, frames=False, **how), (0, 0)
    with recording.reading():
        return aligned, size, frame_times(recording.video)
