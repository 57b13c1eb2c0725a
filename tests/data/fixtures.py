"""Recordings like MineRL's for tests: B-frames, long GOPs, an edit list, and frames that say their own number."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import av
import numpy as np

SIZE = 64
_BITS, _BLOCK = 16, 8
STREAM = "v3_absolute_grape_changeling-{number}_100-{end}"


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


def write_video(path: Path, frames: int, hidden: int = 0) -> None:
    """H.264 High, yuv420p, 20 fps, B-frames, one GOP; an edit list hides the first `hidden` of `hidden + frames`.

    The visible frames carry the barcodes 0 .. frames - 1, the hidden ones 60000 and up.
    """
    plain = path.with_suffix(".plain.mp4") if hidden else path
    parameters = "keyint=250:min-keyint=250:scenecut=0:b-adapt=0:threads=1"
    with av.open(str(plain), "w") as container:
        stream = container.add_stream(
            "libx264", rate=20, options={"bf": "3", "crf": "20", "preset": "veryfast", "x264-params": parameters}
        )
        stream.width = stream.height = SIZE
        stream.pix_fmt = "yuv420p"
        for number in range(-hidden, frames):
            image = barcode(number if number >= 0 else 60000 - number)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    if hidden:
        # Packets before time zero make the muxer write an edit list that starts in the middle of the GOP.
        remux(plain, path, shift_frames=hidden)
        plain.unlink()


def remux(source: Path, target: Path, shift_frames: int = 0, faststart: bool = False) -> None:
    """Copy the packets, `shift_frames` earlier, with the index before the data if `faststart`."""
    options = {"movflags": "faststart"} if faststart else {}
    with av.open(str(source)) as reader, av.open(str(target), "w", options=options) as writer:
        stream = reader.streams.video[0]
        copy = writer.add_stream_from_template(stream)
        for packet in reader.demux(stream):
            if packet.dts is not None:
                shift = int(shift_frames / 20 / packet.time_base)
                packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
                packet.stream = copy
                writer.mux(packet)


def treechop_arrays(steps: int) -> dict[str, np.ndarray]:
    """`rendered.npz` of a Treechop demonstration; the pressed buttons of row i spell i mod 17 in binary."""
    rows = np.arange(steps)
    names = ("forward", "back", "left", "right", "jump", "sneak", "sprint", "attack")
    arrays: dict[str, Any] = {f"action${name}": (rows % 17 >> bit & 1) for bit, name in enumerate(names)}
    arrays["action$camera"] = np.stack([rows % 5 - 2.0, -(rows % 3 - 1.0)], 1).astype(np.float32)
    arrays["reward"] = (rows % 10 == 9).astype(np.float32)
    return arrays


def obtain_arrays(steps: int, dialect: int = 3) -> dict[str, np.ndarray]:
    """`rendered.npz` of an Obtain demonstration in MineRL's v3 or v4 dialect."""
    rows, dot = np.arange(steps), "." if dialect == 3 else "$"
    arrays = treechop_arrays(steps)
    arrays["action$place"] = np.where(rows % 7 == 6, "torch", "none")
    arrays["action$equip"] = np.where(rows % 7 == 5, "iron_pickaxe", "none")
    arrays["action$craft"] = np.where(rows % 7 == 4, "planks", "none")
    arrays["action$nearbyCraft"] = np.where(rows % 7 == 3, "furnace", "none")
    arrays["action$nearbySmelt"] = np.where(rows % 7 == 2, "iron_ingot", "none")
    arrays[f"observation$equipped_items{dot}mainhand{dot}type"] = np.full(steps + 1, "air")
    arrays["observation$inventory$log"] = np.zeros(steps + 1, np.int64)
    return arrays


def navigate_arrays(steps: int, dialect: int = 3) -> dict[str, np.ndarray]:
    """`rendered.npz` of a Navigate demonstration: +100 on the last step."""
    arrays = treechop_arrays(steps)
    arrays["action$place"] = np.where(np.arange(steps) % 4 == 3, "dirt", "none")
    compass = "observation$compassAngle" if dialect == 3 else "observation$compass$angle"
    arrays[compass] = np.zeros(steps + 1, np.float32)
    arrays["reward"] = np.where(np.arange(steps) == steps - 1, 100, 0).astype(np.float32)
    return arrays


def write_minerl_recording(
    root: Path,
    arrays: dict[str, np.ndarray],
    extra: int = 0,
    hidden: int = 0,
    env: str = "MineRLTreechop-v0",
    number: int = 0,
    metadata: bool = True,
) -> Path:
    """One recording folder. The visible frames are `extra` before the first state, then one a state."""
    steps = len(arrays["reward"])
    folder = root / env / STREAM.format(number=number, end=100 + steps)
    folder.mkdir(parents=True)
    write_video(folder / "recording.mp4", extra + steps + 1, hidden)
    np.savez_compressed(folder / "rendered.npz", **arrays)
    if metadata:
        total = float(arrays["reward"].sum())
        content = {"success": total >= 64, "duration_ms": 50 * steps, "duration_steps": steps, "total_reward": total}
        content |= {"stream_name": folder.name, "true_video_frame_count": extra + hidden + steps + 1}
        (folder / "metadata.json").write_text(json.dumps(content))
    return folder
