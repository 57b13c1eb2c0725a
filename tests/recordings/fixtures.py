"""Recordings like MineRL's for tests: every row's action and every frame say their own number."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np

from recordings.video_fixtures import barcode, cut, read_barcode, remux, write_video

__all__ = ["barcode", "read_barcode", "write_video"]

STREAM = "v3_absolute_grape_changeling-{number}_100-{end}"

# Degrees of the 11 camera bins, written down here so that a fixture does not depend on the code under test.
CAMERA = (-10.0, -5.8, -3.2, -1.6, -0.6, 0.0, 0.6, 1.6, 3.2, 5.8, 10.0)
_PERIOD = 256 * len(CAMERA)


def treechop_arrays(steps: int, start: int = 0) -> dict[str, np.ndarray]:
    """`rendered.npz` of a Treechop demonstration; `row_of` reads a row's number, from `start` on, from its action.

    The buttons spell row mod 256 and the pitch is row mod 11, which makes 2816 rows; yaw - 2 pitch counts those.
    """
    rows = np.arange(start, start + steps)
    names = ("forward", "back", "left", "right", "jump", "sneak", "sprint", "attack")
    arrays: dict[str, Any] = {f"action${name}": (rows >> bit & 1) for bit, name in enumerate(names)}
    pitch = rows % len(CAMERA)
    yaw = (2 * pitch + rows // _PERIOD) % len(CAMERA)
    arrays["action$camera"] = np.stack([np.array(CAMERA)[pitch], np.array(CAMERA)[yaw]], 1).astype(np.float32)
    arrays["reward"] = (rows % 10 == 9).astype(np.float32)
    return arrays


def row_of(actions: np.ndarray) -> np.ndarray:
    """The numbers of action rows (s, 10 or more) of any MineRL space, up to 30,976 rows."""
    low = (actions[:, :8].astype(int) << np.arange(8)).sum(1)
    pitch, yaw = actions[:, 8].astype(int), actions[:, 9].astype(int)
    # Chinese remainder: 256 = 3 mod 11, and 3 * 4 = 1 mod 11.
    within = low + 256 * ((pitch - low) * 4 % len(CAMERA))
    return np.asarray(within + _PERIOD * ((yaw - 2 * pitch) % len(CAMERA)))


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
    **video: Any,
) -> Path:
    """One recording folder. The visible frames are `extra` before the first state, then one a state.

    `video` goes to `write_video`. An `extra` of -1 is one frame too few.
    """
    steps = len(arrays["reward"])
    folder = root / env / STREAM.format(number=number, end=100 + steps)
    folder.mkdir(parents=True)
    write_video(folder / "recording.mp4", extra + steps + 1, hidden, **video)
    np.savez_compressed(folder / "rendered.npz", **arrays)
    if metadata:
        total = float(arrays["reward"].sum())
        content = {"success": total >= 64, "duration_ms": 50 * steps, "duration_steps": steps, "total_reward": total}
        content |= {"stream_name": folder.name, "true_video_frame_count": extra + hidden + steps + 1}
        (folder / "metadata.json").write_text(json.dumps(content))
    return folder


@dataclass(frozen=True)
class Fixture:
    """A kind of recording: `write(root)` makes its folder; the frame of row i carries the barcode `first + i`.

    `refusal` is a pattern of the words it must be refused with, or empty if it must be read.
    """

    write: Callable[[Path], Path]
    first: int = 0
    refusal: str = ""


def _recording(
    root: Path, steps: int = 120, after: Callable[[Path], object] = lambda video: None, **options: Any
) -> Path:
    folder = write_minerl_recording(root, treechop_arrays(steps), **options)
    after(folder / "recording.mp4")
    return folder


def _rewrite(video: Path, **options: Any) -> None:
    remux(video, video.with_suffix(".new.mp4"), **options)
    video.with_suffix(".new.mp4").replace(video)


def _from_third_key(packets: list[av.Packet]) -> list[av.Packet]:
    return packets[[i for i, packet in enumerate(packets) if packet.is_keyframe][2] :]


def _truncate(video: Path, share: float, **options: Any) -> None:
    _rewrite(video, **options)
    cut(video, share)


_OPEN_GOP = "open-gop=1:keyint=12:min-keyint=12:bframes=3"
_TRUNCATED = r"recording.mp4: .*truncated"

FIXTURES: dict[str, Fixture] = {
    "b-frames": Fixture(partial(_recording)),
    "gop-217": Fixture(partial(_recording, steps=450, x264="keyint=217:min-keyint=217:bframes=3")),
    "open-gop": Fixture(partial(_recording, x264=_OPEN_GOP)),
    # Key frames are frames 0, 12, 24, ...: cut before the third one, the file shows frames 24 .. 147; 121 are needed.
    "open-gop-start": Fixture(
        partial(
            _recording,
            extra=27,
            x264=_OPEN_GOP,
            after=partial(_rewrite, change=_from_third_key, use_editlist="0"),
            metadata=False,  # it would count the frames that are gone
        ),
        first=27,
    ),
    "open-gop-start-edit-list": Fixture(
        partial(_recording, extra=27, x264=_OPEN_GOP, after=partial(_rewrite, change=_from_third_key), metadata=False),
        first=27,
    ),
    "edit-list": Fixture(partial(_recording, extra=7, hidden=33), first=7),
    "variable-rate": Fixture(partial(_recording, extra=3, times=lambda i: i + i // 3 + 40 * (i > 60)), first=3),
    "odd-extra": Fixture(partial(_recording, extra=5), first=5),
    "fragmented": Fixture(
        partial(_recording, x264="keyint=25:bframes=3", after=partial(_rewrite, movflags="frag_keyframe+empty_moov"))
    ),
    "mpeg4": Fixture(partial(_recording, extra=1, codec="mpeg4", bf="2", g="30", qscale="4"), first=1),
    "lossless-rgb": Fixture(partial(_recording, codec="libx264rgb", pixels="rgb24", extra=2, qp="0"), first=2),
    "too-few": Fixture(partial(_recording, extra=-1), refusal="has 120 frames, 120 rewards need 121"),
    "truncated-index-last": Fixture(
        partial(_recording, extra=30, after=partial(_truncate, share=0.9)), refusal=_TRUNCATED
    ),
    "truncated-index-first": Fixture(
        partial(_recording, extra=30, after=partial(_truncate, share=0.9, movflags="faststart")), refusal=_TRUNCATED
    ),
    "truncated-fragments": Fixture(
        partial(
            _recording,
            extra=60,
            x264="keyint=25:bframes=3",
            after=partial(_truncate, share=0.8, movflags="frag_keyframe+empty_moov"),
        ),
        refusal=_TRUNCATED,
    ),
}
