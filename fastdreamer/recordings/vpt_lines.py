"""One line of a VPT recording: what its JSON says, checked.

    {"mouse": {"x", "y", "dx", "dy", "buttons", "newButtons"}, "keyboard": {"keys"}, "isGuiOpen", "hotbar", "tick",
     "milli"}

There is more in it: `vpt_counters` reads `inventory` and `stats`, and the rest nothing needs. Early recorders of
version 6 wrote null for mouse or keyboard, and had no `hotbar` before 6.11.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastdreamer.recordings.bounds import MOST_LABEL_BYTES, MOST_LINE_BYTES, check_bytes

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


def load_line(text: bytes) -> dict[str, Any]:
    """The object that one line of the file is.

    Raises:
        ValueError: if it is no JSON object.
    """
    try:
        content = json.loads(text)
    except ValueError as error:
        raise ValueError("not JSON") from error
    if not isinstance(content, dict):
        raise ValueError("not an object")
    return content


def parse_line(content: dict[str, Any]) -> Line:
    """What the player did at one line.

    Raises:
        ValueError: naming what is broken: a field is missing or of another kind.
    """
    mouse, keyboard = _group(content, "mouse"), _group(content, "keyboard")
    is_open = content.get("isGuiOpen") is True
    keys = [key for key in _list(keyboard, "keyboard", "keys") if isinstance(key, str)]
    buttons = [button for button in _list(mouse, "mouse", "buttons") if isinstance(button, int)]
    pressed = {KEYS[key] for key in keys if key in KEYS}
    pressed |= {MOUSE_BUTTONS[button] for button in buttons if button in MOUSE_BUTTONS}
    if is_open and ESCAPE in keys:
        pressed.add("inventory")
    has_place = mouse is not None and "x" in mouse and "y" in mouse
    hotbar = content.get("hotbar")
    if hotbar is not None and not (isinstance(hotbar, int) and 0 <= hotbar <= 8):
        raise ValueError(f"hotbar is {hotbar!r}, not 0 to 8")
    return Line(
        pressed=pressed,
        slots=tuple(SLOTS[key] for key in keys if key in SLOTS),
        new_buttons=tuple(_list(mouse, "mouse", "newButtons")),
        dx=_number(mouse, "dx"),
        dy=_number(mouse, "dy"),
        hotbar=hotbar,
        cursor=(_number(mouse, "x"), _number(mouse, "y")) if is_open and has_place else None,
        is_silent=mouse is None or keyboard is None,
        tick=content.get("tick"),
        milli=content.get("milli"),
    )


def _group(content: dict[str, Any], name: str) -> dict[str, Any] | None:
    if name not in content:
        raise ValueError(f"no {name}")
    group = content[name]
    if group is not None and not isinstance(group, dict):
        raise ValueError(f"{name} is no object")
    return group


def _list(group: dict[str, Any] | None, of: str, name: str) -> list[Any]:
    values = [] if group is None else group.get(name)
    if not isinstance(values, list):
        raise ValueError(f"{of}.{name} is no list")
    return values


def _number(mouse: dict[str, Any] | None, name: str) -> float:
    value = 0.0 if mouse is None else mouse.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e9 or math.isnan(value):
        raise ValueError(f"mouse.{name} is no number")
    return float(value)
