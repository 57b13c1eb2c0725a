"""Opening a video file: no file but that one, no container but those that are meant, and the stream that is the video.

libav takes a text file for a playlist, whatever its name, and opens what that names; so it may open only the containers
of `plain.ENDINGS`, and only by the system's own reading of files. Videos that are to be shown turned or mirrored
(phones, editors) give the pixels as a player shows them.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import av
import numpy as np
from av.sidedata.sidedata import Type
from av.stream import Disposition
from jaxtyping import UInt8

from fastdreamer.errors import UserError
from fastdreamer.recordings.printable import said
from fastdreamer.system.advice import shell

HIDDEN_LATE = "its edit list hides frames after the first one it shows"
_ALLOWED = {"format_whitelist": "mov,matroska,avi", "protocol_whitelist": "file"}
_BOXES = (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot", b"styp", b"sidx", b"moof", b"uuid")
# Pictures that come along as a stream of their own: a cover, a thumbnail.
_STILL = {"mjpeg", "png", "apng", "bmp", "gif", "tiff", "webp", "jpeg2000"}
_ONE = 1 << 16  # a display matrix is 16.16 fixed point
_LEAST = 0.99  # entries that are nearly 0 or 1 are rounding's


class DamagedVideo(UserError):
    """A video that cannot be decoded whole; the message names the file and the reason."""


@contextmanager
def told(path: Path) -> Iterator[None]:
    """Whatever goes wrong inside is the file's damage, in one line: libav and the system have many exceptions for it.

    Raises:
        DamagedVideo: in place of any other exception.
    """
    try:
        yield
    except DamagedVideo:
        raise
    except av.FFmpegError as error:
        what = "it cannot be read" if isinstance(error, OSError) else "the video is truncated or damaged"
        raise DamagedVideo(f"{path}: {what} ({error.strerror})") from error
    except Exception as error:
        raise DamagedVideo(f"{path}: it cannot be read ({said(error)})") from error


@contextmanager
def open_video(path: Path, **options: str) -> Iterator[tuple[Any, Any]]:
    """The container and its video stream; whoever decodes must hold `told` around it.

    Raises:
        DamagedVideo: if it is no file of the containers that are meant, or holds no video that can be decoded.
    """
    if not path.is_file():
        raise DamagedVideo(f"{path}: there is no such file")
    with path.open("rb") as file:
        head = file.read(12)
    if not head:
        raise DamagedVideo(f"{path}: the file is empty (0 bytes)")
    if not (head[4:8] in _BOXES or head[:4] == b"\x1aE\xdf\xa3" or (head[:4] == b"RIFF" and head[8:11] == b"AVI")):
        raise DamagedVideo(f"{path}: what is in it is no mp4, mov, mkv, webm or avi video, or is damaged")
    # A name like `concat:a` would be a protocol, were it not for the one before it.
    with av.open(f"file:{path}", options=_ALLOWED | options) as container:
        videos = [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]
        moving = [s for s in videos if s.codec_context is None or s.codec_context.codec.canonical_name not in _STILL]
        if not videos:
            raise DamagedVideo(f"{path}: there is no video in it")
        stream = (moving or videos)[0]
        if stream.codec_context is None:
            raise DamagedVideo(f"{path}: there is no decoder for its codec")
        yield container, stream


def conversion(path: Path, stream: Any) -> str:
    """The command that puts a file in its place that holds the frames a player shows, none lost and none twice.

    It names the folder: what is said before it names the file alone, for a message has one line. The old file stays,
    under a name that is no video's; nothing is overwritten: it does nothing where a name is taken, and says which.
    Nothing moves before the new file is whole. One in MineRL's folder keeps its name, and the labels beside others are
    found by the stem.
    """
    folder = str(path.parent) if path.is_absolute() else f"./{path.parent}"  # else `cd` takes it for an option
    is_mp4 = path.suffix.lower() in (".mp4", ".mov", ".m4v")
    target = path.name if is_mp4 else f"{path.stem}.mkv"
    here, fresh = f"./{path.name}", f"./.{path.stem}.new{'.mp4' if is_mp4 else '.mkv'}"  # neither option nor protocol
    options = f"-map 0:{stream.index} -fps_mode passthrough -enc_time_base 1/90000 -c:v libx264 -qp 0".split()
    if stream.codec_context.width % 2 or stream.codec_context.height % 2:  # whose colours H.264 cannot halve
        options += ["-pix_fmt", "yuv444p"]
    wanted = [f"./{name}" for name in (target, f"{path.name}.original") if name != path.name]  # `mv -n` skips and is 0
    steps = (
        shell("cd", folder),
        *(f"{{ ! {shell('test', '-e', it)} || ! {shell('echo', it, 'exists')}; }}" for it in wanted),
        shell("ffmpeg", "-i", here, *options, "-y", fresh),
        shell("mv", "-n", here, f"{here}.original"),
        shell("mv", "-n", fresh, f"./{target}"),
    )
    return f"convert it: ({' && '.join(steps)})"


def check_index(path: Path, stream: Any) -> None:
    """Refuse an mp4 whose end is not there or not shown: alignment by the end would be off in silence.

    Raises:
        DamagedVideo: if the file ends before its index does, or if frames at its end are in no index or hidden.
    """
    size = path.stat().st_size
    with av.open(f"file:{path}", options=_ALLOWED | {"ignore_editlist": "1"}) as container:
        plain = container.streams[stream.index]
        entries = [(entry.pos, entry.size) for entry in plain.index_entries]  # they live no longer than the container
        count = plain.frames
    end = max((position + length for position, length in entries), default=0)
    if end > size:
        raise DamagedVideo(f"{path}: the video is truncated ({size} of at least {end} bytes are there)")
    if count and count != len(entries):
        raise DamagedVideo(f"{path}: the index is damaged (it has {len(entries)} of {count} frames)")
    if entries and entries[-1][0] != stream.index_entries[-1].pos:
        raise DamagedVideo(f"{path.name}: {HIDDEN_LATE}; {conversion(path, stream)}")
    with path.open("rb") as file:
        boxes = list(_boxes(file, size))
        kinds = [kind for kind, _, _ in boxes]
        if b"moof" in kinds and kinds[-1] != b"mfra" and not _indexed_whole(file, boxes, size):
            # Libav takes a file whose last fragments are missing for a shorter one.
            raise DamagedVideo(
                f"{path.name}: the video is in fragments (its closing index is missing); unless "
                f"truncated, {conversion(path, stream)}"
            )


def _boxes(file: BinaryIO, size: int) -> Iterator[tuple[bytes, int, int]]:
    """Kind, begin and end of the file's outermost boxes."""
    position = 0
    while position + 8 <= size:
        file.seek(position)
        length, kind, long_length = struct.unpack(">I4sQ", file.read(16).ljust(16, b"\0"))
        length = long_length if length == 1 else length or size - position
        if length < 8:
            return
        yield kind, position, position + length
        position += length


def _indexed_whole(file: BinaryIO, boxes: list[tuple[bytes, int, int]], size: int) -> bool:
    """Whether an index before the fragments (DASH, CMAF) names all of them, and they end where it says.

    One with a single entry proves nothing: it may be one of many, each before its own fragment.
    """
    indices = [(begin, end) for kind, begin, end in boxes if kind == b"sidx"]
    if len(indices) != 1:
        return False
    begin, end = indices[0]
    file.seek(begin)
    data = file.read(end - begin)
    kind, place = (">I", 28) if data[8] == 0 else (">Q", 36)  # of the first offset, and where the entries begin
    (first,) = struct.unpack_from(kind, data, place - struct.calcsize(kind))
    (count,) = struct.unpack_from(">H", data, place + 2)
    sizes = [struct.unpack_from(">I", data, place + 4 + 12 * i)[0] & 0x7FFFFFFF for i in range(count)]
    indexed = end + first + sum(sizes)
    last_fragment = max(begin for kind, begin, _ in boxes if kind == b"moof")
    return count > 1 and last_fragment < indexed <= size and indexed in {end for _, _, end in boxes}


@dataclass(frozen=True)
class Turn:
    """Rows and columns change places, or not; then either is mirrored, or not."""

    is_transposed: bool = False
    mirrors_columns: bool = False
    mirrors_rows: bool = False

    def __call__(self, pixels: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h2 w2 3"]:
        if self.is_transposed:
            pixels = pixels.transpose(1, 0, 2)
        return pixels[:: -1 if self.mirrors_rows else 1, :: -1 if self.mirrors_columns else 1]

    def __bool__(self) -> bool:
        return self.is_transposed or self.mirrors_columns or self.mirrors_rows


def turn_of(path: Path, frame: Any) -> Turn:
    """What a frame's display matrix says: (x, y) is shown at (a x + c y, b x + d y), up to a shift.

    Raises:
        DamagedVideo: if it is none of the eight turns that keep pixels whole.
    """
    found = frame.side_data.get(Type.DISPLAYMATRIX)
    if found is None:
        return Turn()
    a, b, _, c, d = (float(x) / _ONE for x in np.frombuffer(bytes(found), np.int32)[:5])
    is_straight, is_transposed = (
        all(abs(abs(x) - 1) < 1 - _LEAST for x in ones) and all(abs(x) < 1 - _LEAST for x in zeros)
        for ones, zeros in (((a, d), (b, c)), ((b, c), (a, d)))
    )
    if not is_straight and not is_transposed:
        raise DamagedVideo(
            f"{path}: it is to be shown turned by {frame.rotation} degrees, scaled or skewed; only quarter turns and "
            "mirrors are read"
        )
    return Turn(is_transposed, (c if is_transposed else a) < 0, (b if is_transposed else d) < 0)
