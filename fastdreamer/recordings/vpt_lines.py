"""One line of a VPT recording: what its JSON says, checked.

    {"mouse": {"x", "y", "dx", "dy", "buttons", "newButtons"}, "keyboard": {"keys"}, "isGuiOpen", "hotbar", "tick",
     "milli"}

There is more in it: `vpt_counters` reads `inventory` and `stats`, and the rest nothing needs. Early recorders of
version 6 wrote null for mouse or keyboard, and had no `hotbar` before 6.11.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastdreamer.recordings.bounds import MOST_LABEL_BYTES, MOST_LINE_BYTES, check_bytes
from fastdreamer.system.json_files import Leaf, Maybe, fault

KEYS = {
    "key.keyboard.w": "forward",
    "key.keyboard.s": "back",
    "key.keyboard.a": "left",
    "key.keyboard.d": "right",
    "key.keyboard.space": "jump",
    "key.keyboard.left.shift": "sneak",
    "key.keyboard.left.control": "sprint",
    "key.keyboard.q": "drop",
    "key.keyboard.e": "inventory",
}
_FIELDS = {"mouse", "keyboard", "isGuiOpen", "hotbar", "tick", "milli", "inventory", "yaw", "pitch"}  # any is enough
ESCAPE = "key.keyboard.escape"  # closes a window, as `inventory` does
SLOTS = {f"key.keyboard.{slot}": str(slot) for slot in range(1, 10)}
MOUSE_BUTTONS = {0: "attack", 1: "use"}
_PIXELS = Leaf("a number", lambda value: type(value) in (int, float) and abs(value) < 1e9)
_SLOT = Leaf("0 to 8", lambda value: isinstance(value, int) and 0 <= value <= 8)
_LIST = Leaf("a list", lambda value: isinstance(value, list))
_PLACE = {"x": _PIXELS, "y": _PIXELS}
_LINE = {
    "mouse": Maybe({"dx": _PIXELS, "dy": _PIXELS, "buttons": _LIST, "newButtons": _LIST}),
    "keyboard": Maybe({"keys": _LIST}), "hotbar?": Maybe(_SLOT),
}  # fmt: skip
_NO_HAND: dict[str, Any] = {"dx": 0.0, "dy": 0.0, "buttons": [], "newButtons": []}
_NO_KEYS: dict[str, Any] = {"keys": []}


@dataclass(frozen=True)
class Line:
    """One line of a VPT recording.

    Attributes:
        pressed: names of the actions that are held.
        slots: hotbar keys that are held, "1" to "9".
        new_buttons: mouse buttons that went down.
        dx, dy: pixels that the mouse moved.
        hotbar: the selected slot, 0 to 8, if it is said.
        cursor: the mouse's place in the game's window, if a window (inventory, chest, ...) is open in it.
        tick, milli: what the line says of its time, whatever that is.
        is_silent: mouse or keyboard were not recorded.
    """

    pressed: set[str]
    slots: tuple[str, ...]
    new_buttons: tuple[int, ...]
    dx: float
    dy: float
    hotbar: int | None
    cursor: tuple[float, float] | None
    is_silent: bool
    tick: object = None
    milli: object = None


def is_other(path: Path) -> bool:
    """Whether a .jsonl file is evidently of something else: its first line says other things (captions, names)."""
    try:
        with path.open("rb") as file:
            first = file.readline(MOST_LINE_BYTES)
        content = json.loads(first)
    except OSError:
        return False
    except (ValueError, RecursionError):
        return len(first) == MOST_LINE_BYTES
    return bool(content) and not content.keys() & _FIELDS if isinstance(content, dict) else True


def read_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """The lines and their numbers from 1 on, one in memory at once; those after the last that says anything are none.

    Raises:
        UserError: if the file is larger than any recording's, or a line is.
        OSError: if it cannot be read.
    """
    check_bytes(path, path.stat().st_size, MOST_LABEL_BYTES)
    with path.open("rb") as file:
        empty = 0
        for number, text in enumerate(iter(lambda: file.readline(MOST_LINE_BYTES + 1), b""), 1):
            check_bytes(path, len(text), MOST_LINE_BYTES, f"line {number}")
            if not text.strip():
                empty += 1
                continue
            yield from ((number - later, b"") for later in range(empty, 0, -1))
            empty = 0
            yield number, text.rstrip(b"\n")


def parse_line(content: Any) -> Line:
    """What the player did at one line, whose JSON says `content`.

    Raises:
        ValueError: naming what is broken: a field is missing or of another kind.
    """
    if wrong := fault(content, _LINE):
        raise ValueError(wrong)
    mouse, keys = content["mouse"], [key for key in (content["keyboard"] or _NO_KEYS)["keys"] if isinstance(key, str)]
    is_open, hand = content.get("isGuiOpen") is True, mouse or _NO_HAND
    pressed = {KEYS[key] for key in keys if key in KEYS}
    pressed |= {MOUSE_BUTTONS[b] for b in hand["buttons"] if isinstance(b, int) and b in MOUSE_BUTTONS}
    if is_open and ESCAPE in keys:
        pressed.add("inventory")
    has_cursor = is_open and "x" in hand and "y" in hand
    if has_cursor and (wrong := fault(hand, _PLACE, "mouse")):
        raise ValueError(wrong)
    return Line(
        pressed=pressed,
        slots=tuple(SLOTS[key] for key in keys if key in SLOTS),
        new_buttons=tuple(hand["newButtons"]),
        dx=float(hand["dx"]),
        dy=float(hand["dy"]),
        hotbar=content.get("hotbar"),
        cursor=(float(hand["x"]), float(hand["y"])) if has_cursor else None,
        is_silent=mouse is None or content["keyboard"] is None,
        tick=content.get("tick"),
        milli=content.get("milli"),
    )
