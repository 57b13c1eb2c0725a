"""Exact decoding of one whole video on the CPU: the frames a player would show, in the order it would show them.

B-frames, long GOPs and edit lists are libav's work (hidden pre-roll frames arrive as packets marked `discard`). What is
added here is suspicion: H.264 has no checksums, and libav conceals errors, drops frames and stops early in silence, so
everything it does know is asked for and compared with the container's index.
"""

from __future__ import annotations

import struct
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
MAX_REORDERED = 16  # frames that may be stored after a later one, by the H.264 standard


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
    visible: list[int] = []
    shape: tuple[int, ...] | None = None
    with _packets(path) as packets:
        # One converter for all frames: making one a frame, as Frame.to_ndarray does, costs four times the decoding.
        converter = VideoReformatter()
        for packet in packets:
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
            visible += _visible(packet)
    if frames:
        yield np.stack(frames)
    if not times:
        raise DamagedVideo(f"{path}: no frame can be decoded")
    expected = _decodable(visible, times[0])
    if lost := len(set(expected) - set(times)):
        raise DamagedVideo(f"{path}: {lost} of {len(visible)} frames are lost in decoding")
    if times != expected:
        raise DamagedVideo(f"{path}: frames come twice or out of order")


def count_frames(path: Path) -> int:
    """How many frames `decode_video` gives, from the packets and the first frame (the container's count lies).

    Raises:
        DamagedVideo: if the file is empty, truncated or no video, or if its first frame cannot be decoded.
    """
    first: int | None = None
    visible: list[int] = []
    with _packets(path) as packets:
        for packet in packets:
            if first is None:
                first = next((frame.pts for frame in packet.decode()), None)
            visible += _visible(packet)
    if first is None:
        raise DamagedVideo(f"{path}: no frame can be decoded")
    return len(_decodable(visible, first))


def count_packets(path: Path) -> int:
    """How many frames are stored in the file, those included that an edit list hides and that cannot be decoded.

    Raises:
        DamagedVideo: if the file is empty, truncated or no video.
    """
    with _packets(path) as packets:
        return sum(packet.size > 0 for packet in packets)


def _visible(packet: Any) -> list[int]:
    """When a packet's frame is shown; nothing for the packet that flushes and those that an edit list hides."""
    return [packet.pts] if packet.size and not packet.is_discard else []


def _decodable(visible: list[int], first: int) -> list[int]:
    """When frames must come out, in order, given when the first one did.

    What libav leaves out before that depends on packets that were never in the file, and no alignment by the end
    needs it; a hole after that shifts everything before it.
    """
    return sorted(time for time in visible if time >= first)


@contextmanager
def _packets(path: Path) -> Iterator[Iterator[Any]]:
    """All packets of the file's video, and the empty one that flushes the decoder."""
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
            _check_end(path, stream)
            yield _without_leading(path, container.demux(stream))
    except av.FFmpegError as error:
        raise DamagedVideo(f"{path}: the video is truncated or damaged ({error.strerror})") from error


def _without_leading(path: Path, packets: Iterator[Any]) -> Iterator[Any]:
    """Leave out frames that come before the first key frame but are stored after it.

    They open a file that was cut at an open GOP, and refer to the GOP that is gone: no player shows them.
    """
    first: int | None = None
    leading = 0
    for packet in packets:
        if packet.size and packet.pts is None:
            raise DamagedVideo(f"{path}: a frame has no time, so the order of frames is unknown; convert it to mp4")
        if packet.is_corrupt:
            raise DamagedVideo(f"{path}: the video is truncated or damaged (a packet is incomplete)")
        first = packet.pts if first is None else first
        if packet.size and packet.pts < first:
            leading += 1
            if leading > MAX_REORDERED:
                raise DamagedVideo(f"{path}: the first frame's time is later than that of {leading} others")
            continue
        yield packet


def _check_end(path: Path, stream: Any) -> None:
    """The file must reach as far as its index says; one in fragments must end with its closing index (`mfra`).

    Libav takes a file whose last fragments are missing for a shorter one, and alignment is by the end.
    """
    size, end = path.stat().st_size, max((entry.pos + entry.size for entry in stream.index_entries), default=0)
    kinds = []
    if "mp4" in stream.container.format.name.split(","):
        position = 0
        with path.open("rb") as file:
            while position + 8 <= size:
                file.seek(position)
                length, kind, long_length = struct.unpack(">I4sQ", file.read(16).ljust(16, b"\0"))
                length = long_length if length == 1 else length or size - position
                if length < 8:
                    break
                kinds.append(kind)
                position += length
        if b"moof" in kinds:
            end = max(end, position)
    if end > size:
        raise DamagedVideo(f"{path}: the video is truncated ({size} of at least {end} bytes are there)")
    if b"moof" in kinds and kinds[-1] != b"mfra":
        raise DamagedVideo(f"{path}: the video is in fragments and may be truncated (its closing index is missing)")
