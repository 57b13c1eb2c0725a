"""Exact decoding of one whole video on the CPU: the frames a player would show, in the order it would show them.

B-frames, long GOPs and edit lists are libav's work (hidden pre-roll frames arrive as packets marked `discard`). What is
added here is suspicion: H.264 has no checksums, and libav conceals errors, drops frames and stops early in silence, so
everything it does know is asked for and compared with the container's index.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from jaxtyping import UInt8

from fastdreamer.recordings.bounds import MOST_PIXELS
from fastdreamer.recordings.containers import HIDDEN_LATE, Turn, check_index, conversion, open_video, told, turn_of
from fastdreamer.recordings.containers import DamagedVideo as DamagedVideo
from fastdreamer.recordings.frame_times import FrameTimes

BLOCK = 256  # frames
BLOCK_BYTES = 2**25  # large frames come in smaller blocks
FRESH_NS = 50_000_000
MAX_REORDERED = 16  # frames that may be stored after a later one, by the H.264 standard


def decode_video(path: Path) -> UInt8[np.ndarray, "t h w 3"]:
    """Every visible frame in presentation order, RGB.

    Raises:
        DamagedVideo: if the file is empty, truncated or no video, or if libav reports an error or leaves out a frame.
    """
    return np.concatenate(list(decode_blocks(path, BLOCK)))


def decode_blocks(path: Path, block: int, size: int = 0) -> Iterator[UInt8[np.ndarray, "n h w 3"]]:
    """The same frames, at most `block` at once. What is only known at the end is raised after the last block.

    With `size` they are averaged over areas to size x size, for pictures.

    Raises:
        DamagedVideo: as `decode_video`; frames that came before it must then not be used.
    """
    frames: list[np.ndarray] = []
    with told(path):
        to_rgb = _Converter(path, size)
        for frame in _frames(path):
            frames.append(to_rgb(frame))
            if len(frames) >= min(block, BLOCK_BYTES // frames[0].nbytes):
                yield np.stack(frames)
                frames = []
        if frames:
            yield np.stack(frames)


def decode_some(path: Path, numbers: Collection[int]) -> tuple[int, UInt8[np.ndarray, "k h w 3"]]:
    """How many frames there are, and those of some numbers; all are decoded, but only those are made RGB.

    Raises:
        DamagedVideo: as `decode_video`.
    """
    count, some = 0, []
    with told(path):
        to_rgb = _Converter(path)
        for frame in _frames(path):
            if count in numbers:
                some.append(to_rgb(frame))
            count += 1
    return count, np.stack(some) if some else np.zeros((0, 0, 0, 3), np.uint8)


class _Converter:
    """libav's frames to RGB as they are to be shown."""

    def __init__(self, path: Path, size: int = 0) -> None:
        self.path = path
        # One converter for all frames: making one a frame, as Frame.to_ndarray does, costs four times the decoding.
        self._converter = VideoReformatter()
        self._options: dict[str, Any] = {"width": size, "height": size, "interpolation": "AREA"} if size else {}
        self._turn: Turn | None = None

    def __call__(self, frame: Any) -> UInt8[np.ndarray, "h w 3"]:
        if frame.key_frame or self._turn is None:
            self._turn = turn_of(self.path, frame)
        try:
            pixels = self._converter.reformat(frame, format="rgb24", **self._options).to_ndarray()
        except (av.FFmpegError, ValueError) as error:
            raise DamagedVideo(
                f"{self.path}: its colours cannot be made RGB: pixels {frame.format.name}, colour matrix number "
                f"{int(frame.colorspace)}"
            ) from error
        return self._turn(pixels)


def _frames(path: Path) -> Iterator[Any]:
    """The visible frames as libav has them. What is only known at the end is raised there."""
    size: tuple[int, int] | None = None
    came: list[int] = []
    with _packets(path) as (packets, known):
        for packet in packets:
            for frame in _decode(packet, known):
                came.append(frame.pts)
                if frame.pts in known.hidden:
                    continue
                if frame.is_corrupt:
                    raise DamagedVideo(f"{path}: frame {len(came) - 1} is corrupt")
                size = size or (frame.width, frame.height)
                if (frame.width, frame.height) != size:
                    raise DamagedVideo(f"{path}: the frame size changes on the way")
                yield frame
    if size is None:
        raise DamagedVideo(f"{path}: no frame can be decoded")
    known.check(path, came)


def count_frames(path: Path) -> int:
    """How many frames `decode_video` gives, from the packets and the first frame (the container's count lies).

    Raises:
        DamagedVideo: if the file is empty, truncated or no video, or if its first frame cannot be decoded.
    """
    return len(frame_times(path).times)


def frame_times(path: Path) -> FrameTimes:
    """Times of the frames that `decode_video` gives; kept for as long as the file is the same, if it is not brand new.

    Raises:
        DamagedVideo: as `count_frames`.
    """
    with told(path):
        if not path.is_file():
            raise DamagedVideo(f"{path}: there is no such file")
        stat = path.stat()
        if abs(time.time_ns() - stat.st_mtime_ns) < FRESH_NS:
            return _frame_times.__wrapped__(path)  # it may change again within one tick of the file system's clock
        return _frame_times(path, stat.st_ino, stat.st_size, stat.st_mtime_ns)


@lru_cache(64)
def _frame_times(path: Path, *_: int) -> FrameTimes:
    first: int | None = None
    with _packets(path) as (packets, known):
        for packet in packets:
            if first is None:
                first = next((frame.pts for frame in _decode(packet, known)), None)
    if first is None:
        raise DamagedVideo(f"{path}: no frame can be decoded")
    times = np.sort(np.array(known.shown(path, first), np.int64))
    # Frames that wait for B-frames begin late where no edit list takes that back; then the file itself begins at 0.
    return FrameTimes(times, known.unit, 0 if known.sent_first in (0, None) else int(times[0]))


def count_packets(path: Path) -> int:
    """How many frames are stored in the file, those included that an edit list hides.

    Raises:
        DamagedVideo: if the file is empty, truncated or no video.
    """
    with told(path), _packets(path) as (packets, _):
        return sum(packet.size > 0 for packet in packets)


@dataclass
class _Times:
    """Times at which the frames of the packets so far are to be shown, in the order of the file.

    Attributes:
        is_timed: the container has those times; else they are the packets' own, and the order is the decoder's.
        is_indexed: the container has an index, in which no two frames have one time.
        convert: the line that makes another file of it.
    """

    unit: Fraction
    is_timed: bool
    is_indexed: bool
    convert: str
    visible: list[int] = field(default_factory=list)
    hidden: set[int] = field(default_factory=set)
    first: int = 0  # time of the first packet
    sent_first: int | None = None  # time at which that one is to be decoded

    def check(self, path: Path, came: list[int]) -> None:
        """Hold the times of the frames that came out against those of the packets.

        The decoder takes the order from the pictures, the times are the container's: a damaged time shows as a frame
        out of order, even if the edit list would hide it. What libav leaves out before its first frame depends on
        packets that were never in the file, and no alignment by the end needs it; a hole after that shifts everything
        before it.

        Raises:
            DamagedVideo: if they contradict each other.
        """
        expected = sorted(time for time in [*self.visible, *self.hidden] if time >= came[0] or not self.is_timed)
        if lost := (Counter(expected) - Counter(came)).total():
            raise DamagedVideo(f"{path}: {lost} of {len(expected)} frames are lost in decoding")
        twice = self.is_indexed and len(set(came)) < len(came)
        if (came if self.is_timed else sorted(came)) != expected or twice:
            raise DamagedVideo(f"{path}: frames come twice or out of order")
        self.shown(path, came[0])

    def shown(self, path: Path, first: int) -> list[int]:
        """The visible frames' times, given the first one that came out.

        Raises:
            DamagedVideo: if frames after the first visible one are hidden.
        """
        shown = [time for time in self.visible if time >= first or not self.is_timed]
        if self.hidden and max(self.hidden) > min(shown, default=first):
            raise DamagedVideo(f"{path.name}: {HIDDEN_LATE}; {self.convert}")
        return shown


@contextmanager
def _packets(path: Path) -> Iterator[tuple[Iterator[Any], _Times]]:
    """All packets of the file's video, none marked as hidden, and the empty one that flushes the decoder."""
    with open_video(path) as (container, stream):
        # One thread: 64-pixel frames decode at 28,000/s on one core, and callers run a process a core.
        stream.codec_context.thread_count = 1
        stream.codec_context.options = {"err_detect": "explode", "max_pixels": str(MOST_PIXELS)}
        width, height = stream.codec_context.width, stream.codec_context.height
        if width * height > MOST_PIXELS:
            raise DamagedVideo(
                f"{path}: its frames are {width}x{height}; more than {MOST_PIXELS:,} pixels are not read"
            )
        is_mp4 = "mp4" in container.format.name.split(",")
        if is_mp4:
            check_index(path, stream)
        has_times = container.format.name != "avi"  # for which libav makes them up
        known = _Times(stream.time_base, has_times, is_mp4, conversion(path, stream))
        yield _record(path, container.demux(stream), known), known


def _record(path: Path, packets: Iterator[Any], known: _Times) -> Iterator[Any]:
    for packet in packets:
        if packet.size and not known.is_timed:
            packet.pts = packet.dts
        if packet.size and packet.pts is None:
            raise DamagedVideo(f"{path.name}: a frame has no time, so the order of frames is unknown; {known.convert}")
        if not known.visible and not known.hidden:
            known.first, known.sent_first = packet.pts, packet.dts
        if packet.is_discard:  # libav would drop the frame unseen; the mark cannot be taken off
            known.hidden.add(packet.pts)
            copy = av.Packet(bytes(packet))
            copy.pts, copy.dts, copy.time_base, copy.stream = packet.pts, packet.dts, packet.time_base, packet.stream
            copy.is_keyframe = packet.is_keyframe
            packet = copy
        # RFC 6386, 9.1: a VP8 frame without show_frame, its fifth bit, is there for others to refer to.
        elif packet.size and (packet.stream.codec_context.name != "vp8" or memoryview(packet)[0] & 0x10):
            known.visible.append(packet.pts)
        yield packet


def _decode(packet: Any, known: _Times) -> list[Any]:
    """The frames that a packet brings out.

    A file that was cut at an open GOP begins with a key frame and frames that are shown before it; those refer to the
    GOP that is gone, and no player shows them.
    """
    try:
        return list(packet.decode())
    except av.FFmpegError:
        sent = len(known.visible) + len(known.hidden)
        if sent <= 1 + MAX_REORDERED and packet.pts is not None and packet.pts < known.first:
            return []
        raise
