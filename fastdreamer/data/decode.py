"""Exact decoding of one whole video on the CPU: the frames a player would show, in the order it would show them.

B-frames, long GOPs and edit lists are libav's work (hidden pre-roll frames arrive as packets marked `discard`). What is
added here is suspicion: H.264 has no checksums, and libav conceals errors, drops frames and stops early in silence, so
everything it does know is asked for and compared with the container's index.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from jaxtyping import UInt8

from fastdreamer.errors import UserError

BLOCK = 256  # frames
BLOCK_BYTES = 2**25  # large frames come in smaller blocks
MAX_REORDERED = 16  # frames that may be stored after a later one, by the H.264 standard
HIDDEN_LATE = "its edit list hides frames after the first one it shows; cut them off, or convert the file without it"


class DamagedVideo(UserError):
    """A video that cannot be decoded whole; the message names the file and the reason."""


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
    # One converter for all frames: making one a frame, as Frame.to_ndarray does, costs four times the decoding.
    converter = VideoReformatter()
    options: dict[str, Any] = {"width": size, "height": size, "interpolation": "AREA"} if size else {}
    for frame in _frames(path):
        frames.append(converter.reformat(frame, format="rgb24", **options).to_ndarray())
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
    count, some, converter = 0, [], VideoReformatter()
    for frame in _frames(path):
        if count in numbers:
            some.append(converter.reformat(frame, format="rgb24").to_ndarray())
        count += 1
    return count, np.stack(some) if some else np.zeros((0, 0, 0, 3), np.uint8)


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
    first: int | None = None
    with _packets(path) as (packets, known):
        for packet in packets:
            if first is None:
                first = next((frame.pts for frame in _decode(packet, known)), None)
    if first is None:
        raise DamagedVideo(f"{path}: no frame can be decoded")
    return len(known.shown(path, first))


def count_packets(path: Path) -> int:
    """How many frames are stored in the file, those included that an edit list hides.

    Raises:
        DamagedVideo: if the file is empty, truncated or no video.
    """
    with _packets(path) as (packets, _):
        return sum(packet.size > 0 for packet in packets)


@dataclass
class _Times:
    """When the frames of the packets so far are to be shown, in the order of the file."""

    visible: list[int] = field(default_factory=list)
    hidden: set[int] = field(default_factory=set)
    first: int = 0  # that of the first packet

    def check(self, path: Path, came: list[int]) -> None:
        """Hold the times of the frames that came out against those of the packets.

        The decoder takes the order from the pictures, the times are the container's: a damaged time shows as a frame
        out of order, even if the edit list would hide it. What libav leaves out before its first frame depends on
        packets that were never in the file, and no alignment by the end needs it; a hole after that shifts everything
        before it.

        Raises:
            DamagedVideo: if they contradict each other.
        """
        expected = sorted(time for time in [*self.visible, *self.hidden] if time >= came[0])
        if lost := len(set(expected) - set(came)):
            raise DamagedVideo(f"{path}: {lost} of {len(expected)} frames are lost in decoding")
        if came != expected or len(set(came)) < len(came):
            raise DamagedVideo(f"{path}: frames come twice or out of order")
        self.shown(path, came[0])

    def shown(self, path: Path, first: int) -> list[int]:
        """The visible frames' times, given the first one that came out.

        Raises:
            DamagedVideo: if frames after the first visible one are hidden.
        """
        shown = [time for time in self.visible if time >= first]
        if self.hidden and max(self.hidden) > min(shown, default=first):
            raise DamagedVideo(f"{path}: {HIDDEN_LATE}")
        return shown


@contextmanager
def _packets(path: Path) -> Iterator[tuple[Iterator[Any], _Times]]:
    """All packets of the file's video, none marked as hidden, and the empty one that flushes the decoder."""
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
            if "mp4" in container.format.name.split(","):
                _check_index(path, stream)
            known = _Times()
            yield _record(path, container.demux(stream), known), known
    except av.FFmpegError as error:
        raise DamagedVideo(f"{path}: the video is truncated or damaged ({error.strerror})") from error


def _record(path: Path, packets: Iterator[Any], known: _Times) -> Iterator[Any]:
    for packet in packets:
        if packet.size and packet.pts is None:
            raise DamagedVideo(f"{path}: a frame has no time, so the order of frames is unknown; convert it to mp4")
        if not known.visible and not known.hidden:
            known.first = packet.pts
        if packet.is_discard:  # libav would drop the frame unseen; the mark cannot be taken off
            known.hidden.add(packet.pts)
            copy = av.Packet(bytes(packet))
            copy.pts, copy.dts, copy.time_base, copy.stream = packet.pts, packet.dts, packet.time_base, packet.stream
            copy.is_keyframe = packet.is_keyframe
            packet = copy
        elif packet.size:
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


def _check_index(path: Path, stream: Any) -> None:
    """Refuse an mp4 whose end is not there or not shown: alignment by the end would be off in silence.

    Raises:
        DamagedVideo: if the file ends before its index does, or if frames at its end are in no index or hidden.
    """
    size = path.stat().st_size
    with av.open(str(path), options={"ignore_editlist": "1"}) as container:
        plain = container.streams.video[0]
        entries = [(entry.pos, entry.size) for entry in plain.index_entries]  # they live no longer than the container
        count = plain.frames
    end = max((position + length for position, length in entries), default=0)
    if end > size:
        raise DamagedVideo(f"{path}: the video is truncated ({size} of at least {end} bytes are there)")
    if count and count != len(entries):
        raise DamagedVideo(f"{path}: the index is damaged (it has {len(entries)} of {count} frames)")
    if entries and entries[-1][0] != stream.index_entries[-1].pos:
        raise DamagedVideo(f"{path}: {HIDDEN_LATE}")
    kinds, position = [b""], 0
    with path.open("rb") as file:
        while position + 8 <= size:
            file.seek(position)
            length, kind, long_length = struct.unpack(">I4sQ", file.read(16).ljust(16, b"\0"))
            length = long_length if length == 1 else length or size - position
            if length < 8:
                break
            kinds.append(kind)
            position += length
    if b"moof" in kinds and kinds[-1] != b"mfra":
        # Libav takes a file whose last fragments are missing for a shorter one.
        raise DamagedVideo(f"{path}: the video is in fragments and may be truncated (its closing index is missing)")
