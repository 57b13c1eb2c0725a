"""Recordings like VPT's contractors' for tests: every line's action says its own number."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from recordings.video_fixtures import write_video

# Keys that change nothing of one another, and mouse pixels in the middle of the 11 camera bins, written down here so
# that a fixture does not depend on the code under test.
_KEYS = (
    "key.keyboard.space",
    "key.keyboard.left.shift",
    "key.keyboard.left.control",
    "key.keyboard.q",
)
_COLUMNS = ("jump", "sneak", "sprint", "drop", "attack", "use")
_PIXELS = (-70, -39, -21, -11, -4, 0, 4, 11, 21, 39, 70)

Line = dict[str, Any]


def vpt_line(keys: tuple[str, ...] = (), dx: float = 0.0, dy: float = 0.0, **fields: Any) -> Line:
    """One line as version 7 writes it; `fields` go into `mouse` where it has them, else beside it."""
    mouse = {"x": 640.0, "y": 360.0, "dx": dx, "dy": dy, "scaledX": 0.0, "scaledY": 0.0}
    mouse |= {"dwheel": 0.0, "buttons": [], "newButtons": []}
    line = {
        "mouse": mouse | {name: value for name, value in fields.items() if name in mouse},
        "keyboard": {"keys": [f"key.keyboard.{key}" for key in keys], "newKeys": [], "chars": ""},
        "isGuiOpen": False,
        "isGuiInventory": False,
        "hotbar": 0,
        "yaw": -112.35,
        "pitch": 8.1,
        "tick": 0,
        "inventory": [{"type": "oak_door", "quantity": 3}],
    }
    return line | {name: value for name, value in fields.items() if name not in mouse}


def numbered_line(row: int) -> Line:
    """A line that says row + 1, so that none is empty: 6 bits, then pitch and yaw, which makes 7744 rows."""
    number = row + 1
    pitch, yaw = number // 64 % 11, number // 704
    line = vpt_line(dy=_PIXELS[(pitch + 5) % 11], dx=_PIXELS[(yaw + 5) % 11])
    line["keyboard"]["keys"] = [key for bit, key in enumerate(_KEYS) if number >> bit & 1]
    line["mouse"]["buttons"] = [button for button in (0, 1) if number >> (4 + button) & 1]
    return line


def row_of_vpt(actions: np.ndarray, names: list[str]) -> list[int]:
    """The rows that actions (s, k) of `numbered_line` say; -1 is an empty one."""
    low = sum(actions[:, names.index(name)].astype(int) << bit for bit, name in enumerate(_COLUMNS))
    pitch, yaw = ((actions[:, names.index(f"camera_{axis}")].astype(int) - 5) % 11 for axis in ("pitch", "yaw"))
    return (low + 64 * pitch + 704 * yaw - 1).tolist()


def write_vpt_recording(
    root: Path,
    lines: int = 40,
    frames: int | None = None,
    name: str = "cheeky-cornflower-setter-02e496ce4abb-20220421-092639",
    version: str = "8.0",
    change: Callable[[list[Any]], object] = lambda lines: None,
    **video: Any,
) -> Path:
    """ROOT/<version>/<name>.mp4 and .jsonl, frame i with barcode i; `change` works on the list of lines in place.

    A line that is text is written as it is.
    """
    path = root / version / f"{name}.mp4"
    path.parent.mkdir(parents=True, exist_ok=True)
    contents: list[Any] = [numbered_line(row) for row in range(lines)]
    change(contents)
    texts = [line if isinstance(line, str) else json.dumps(line) for line in contents]
    path.with_suffix(".jsonl").write_text("".join(f"{text}\n" for text in texts))
    write_video(path, lines if frames is None else frames, **video)
    return path
