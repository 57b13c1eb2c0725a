"""Videos whose frames say their own number, in every form that real files take."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from functools import partial
from pathlib import Path

import av
import numpy as np

SIZE = 64
FPS = 20
HIDDEN = 60000  # the barcodes of frames that nobody should see start here
_BITS, _BLOCK = 16, 8


def barcode(number: int) -> np.ndarray:
    """A frame (64, 64, 3) with `number` in black and white 8x8 blocks on top and a moving texture below."""
    frame = np.random.default_rng(number // 5).integers(0, 100, (SIZE, SIZE, 3), dtype=np.uint8)
    frame[..., 0] += number * 3 % 128
    for bit in range(_BITS):
        y, x = _BLOCK * (bit // 8), _BLOCK * (bit % 8)
        frame[y : y + _BLOCK, x : x + _BLOCK] = 255 * (number >> bit & 1)
    return frame


def read_barcode(frame: np.ndarray) -> int:
    """The number in a frame, whatever lossy coding did to it."""
    blocks = frame[: 2 * _BLOCK].reshape(2, _BLOCK, 8, _BLOCK, 3).mean((1, 3, 4)).reshape(-1) > 127
    return int((blocks << np.arange(_BITS)).sum())


def write_video(
    path: Path,
    frames: int,
    hidden: int = 0,
    codec: str = "libx264",
    pixels: str = "yuv420p",
    x264: str = "keyint=250:bframes=3",
    times: Callable[[int], int] = lambda number: number,
    start: int = 0,
    **options: str,
) -> None:
    """H.264 High with B-frames, 20 fps; an edit list hides the first `hidden` of `hidden + frames`.

    The visible frames carry the barcodes start .. start + frames - 1, the hidden ones 60000 and up. `times` gives
    frame i's time in twentieths of a second.
    """
    plain = path.with_suffix(".plain.mp4") if hidden else path
    if codec.startswith("libx264"):
        fixed = "threads=1:b-adapt=0:scenecut=0"  # so that the same frames are B-frames and key frames every time
        options = {"preset": "veryfast", "x264-params": f"{x264}:{fixed}"} | (options or {"crf": "20"})
    with av.open(str(plain), "w") as container:
        stream = container.add_stream(codec, rate=FPS, options=options)
        stream.width = stream.height = SIZE
        stream.pix_fmt = pixels
        for number in range(-hidden, frames):
            image = barcode(start + number if number >= 0 else HIDDEN - number)
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = times(number + hidden), Fraction(1, FPS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    if hidden:
        # Packets before time zero make the muxer write an edit list that starts in the middle of the GOP.
        remux(plain, path, partial(earlier, frames=hidden))
        plain.unlink()


def remux(
    source: Path,
    target: Path,
    change: Callable[[list[av.Packet]], list[av.Packet]] = lambda packets: packets,
    **options: str,
) -> None:
    """Copy the packets, changed; `options` are the mp4 writer's."""
    with av.open(str(source)) as reader, av.open(str(target), "w", options=options) as writer:
        stream = reader.streams.video[0]
        copy = writer.add_stream_from_template(stream)
        for packet in change([packet for packet in reader.demux(stream) if packet.size]):
            packet.stream = copy
            writer.mux(packet)


def earlier(packets: list[av.Packet], frames: int) -> list[av.Packet]:
    """The packets with their times moved."""
    for packet in packets:
        shift = int(frames / FPS / packet.time_base)
        packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
    return packets


def packets_of(path: Path) -> list[av.Packet]:
    """The packets of a video, in the order of the file."""
    with av.open(str(path)) as container:
        return [packet for packet in container.demux(video=0) if packet.size]


def nal_types(packet: av.Packet) -> set[int]:
    """The kinds of H.264 units in a packet: 1 slice, 5 slice of an IDR frame, 6 supplementary information."""
    data, position, kinds = bytes(packet), 0, set()
    while position + 4 < len(data):
        kinds.add(data[position + 4] & 31)
        position += 4 + int.from_bytes(data[position : position + 4], "big")
    return kinds


def cut(path: Path, share: float) -> None:
    """Leave only the first `share` of a file."""
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
