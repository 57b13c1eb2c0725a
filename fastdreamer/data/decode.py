"""Exact decoding of one whole video on the CPU: the frames a player would show, in the order it would show them.

B-frames, long GOPs and edit lists are libav's work (hidden pre-roll frames arrive as packets marked `discard`). What is
added here is suspicion: H.264 has no checksums, and libav conceals errors, drops frames and stops early in silence, so
everything it does know is asked for and compared with the container's index.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from jaxtyping import UInt8

from fastdreamer.errors import UserError

BLOCK = 256  # frames


class DamagedVideo(UserError):
    """A video that cannot be decoded whole; the message names the file and the reason."""


def decode_video(path: Path) -> UInt8[np.ndarray, "t h w 3"]:
    """Every visible frame in presentation order, RGB.

    Raises:
        DamagedVideo: if the file is empty, truncated or no video, or if libav reports an error or leaves out a frame.
    """
    return np.concatenate(list(decode_blocks(path, BLOCK)))


def decode_blocks(path: Path, block: int) -> Iterator[UInt8[np.ndarray, "n h w 3"]]:
    """The same frames, at most `block` at once. What is only known at the end is raised after the last block.

    Raises:
        DamagedVideo: as `decode_video`; frames that came before it must then not be used.
    """
    frames: list[np.ndarray] = []
    times: list[int] = []
    shape: tuple[int, ...] | None = None
    with _open(path) as (container, stream):
        # One converter for all frames: making one a frame, as Frame.to_ndarray does, costs four times the decoding.
        converter = VideoReformatter()
        visible = []
        for packet in _packets(path, container, stream):
            for frame in packet.decode():
                if frame.is_corrupt:
                    raise DamagedVideo(f"{path}: frame {len(times)} is corrupt")
                frames.append(converter.reformat(frame, format="rgb24").to_ndarray())
                times.append(frame.pts)
                shape = shape or frames[-1].shape
                if frames[-1].shape != shape:
                    raise DamagedVideo(f"{path}: the frame size changes on the way")
                if len(frames) == block:
                    yield np.stack(frames)
                    frames = []
            if packet.size and not packet.is_discard:
                visible.append(packet.pts)
    if frames:
        yield np.stack(frames)
    if not times:
        raise DamagedVideo(f"{path}: no frame can be decoded")
    # Frames that libav leaves out before its first output depend on packets that were never in the file, and no
    # alignment by the end needs them; a hole after that shifts everything before it.
    lost = {time for time in visible if time > times[0]} - set(times)
    if lost:
        raise DamagedVideo(f"{path}: {len(lost)} of {len(visible)} frames are lost in decoding")


def count_frames(path: Path) -> int:
    """Number of visible frames, from the packets alone (the container's own count includes hidden ones).

    Raises:
        DamagedVideo: if the file is empty, truncated or no video.
    """
    with _open(path) as (container, stream):
        return sum(packet.size > 0 and not packet.is_discard for packet in _packets(path, container, stream))


@contextmanager
def _open(path: Path) -> Iterator[tuple[Any, Any]]:
    if not path.is_file():
        raise DamagedVideo(f"{path}: there is no such file")
    if path.stat().st_size == 0:
        raise DamagedVideo(f"{path}: the file is empty (0 bytes)")
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise DamagedVideo(f"{path}: there is no video in it")
            stream = container.streams.video[0]
            # One thread: 64-pixel frames decode at 28,000/s on one core, and callers run a process a core.
            stream.codec_context.thread_count = 1
            stream.codec_context.options = {"err_detect": "explode"}
            yield container, stream
    except av.FFmpegError as error:
        raise DamagedVideo(f"{path}: the video is truncated or damaged ({error.strerror})") from error


def _packets(path: Path, container: Any, stream: Any) -> Iterator[Any]:
    """All packets and the empty one that flushes the decoder; the file must reach as far as its index says."""
    size, end = path.stat().st_size, max((entry.pos + entry.size for entry in stream.index_entries), default=0)
    if end > size:
        raise DamagedVideo(f"{path}: the video is truncated ({size} of at least {end} bytes are there)")
    yield from container.demux(stream)
