"""What a page may send, parsed and bounded, and how what it is shown is packed.

A page sends JSON objects of at most `MOST_BYTES`, each of a type in `KINDS` with exactly the fields of its class. It is
sent text (JSON objects too) and pictures: a little-endian uint32 with the length of a JSON object, the object, and the
frames' raw RGB.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastdreamer.errors import UserError
from fastdreamer.settings.fields import SEED_MOST
from fastdreamer.system.output import name as shown_name
from fastdreamer.system.output import to_json

MOST_BYTES = 1024
MOST_NUMBER = 2**31 - 1
MOST_SPEED = 60.0  # ticks a second
MOST_COMPONENTS = 256
MOST_LABEL = 255
MOST_TEXT = 64  # characters of a name


class Refused(UserError):
    """A message that is not obeyed; the line goes to the page that sent it."""


class Hello(NamedTuple):
    """The first message: the session that the page had, if any."""

    session: str | None = None


class Act(NamedTuple):
    """One press: one step, in order; `n` counts the page's presses."""

    n: int
    action: tuple[int, ...]


class Hold(NamedTuple):
    """The action that is held from now on, or None."""

    action: tuple[int, ...] | None


class Choose(NamedTuple):
    """Settings of the session that change; None leaves one as it is."""

    who: str | None = None
    greedy: bool | None = None
    denoising: int | None = None
    task: int | None = None
    speed: float | None = None


class Pause(NamedTuple):
    """Stops the ticks, or lets them go on."""

    on: bool


class Single(NamedTuple):
    """One step by whoever plays."""


class Rewind(NamedTuple):
    """So many steps back."""

    steps: int


class Fork(NamedTuple):
    """The dream begins again from the real frame."""


class Start(NamedTuple):
    """Another world, one that nobody knows if none is named; or a step of a held-out recording."""

    seed: int | None = None
    recording: int | None = None
    step: int = 0


class Filmstrip(NamedTuple):
    """Asks for a recording's small frames."""

    recording: int


class Seen(NamedTuple):
    """The newest view that the page has drawn."""

    view: int


Message = Hello | Act | Hold | Choose | Pause | Single | Rewind | Fork | Start | Filmstrip | Seen
KINDS: Mapping[str, type[Any]] = {
    "hello": Hello, "act": Act, "hold": Hold, "set": Choose, "pause": Pause, "single": Single, "rewind": Rewind,
    "fork": Fork, "start": Start, "filmstrip": Filmstrip, "seen": Seen,
}  # fmt: skip


def _whole(value: Any, most: int = MOST_NUMBER) -> int:
    if type(value) is not int or not 0 <= value <= most:
        raise ValueError(f"a whole number from 0 to {most}")
    return value


def _action(value: Any) -> tuple[int, ...]:
    if not isinstance(value, list) or len(value) > MOST_COMPONENTS:
        raise ValueError("a list of whole numbers")
    return tuple(_whole(label, MOST_LABEL) for label in value)


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("true or false")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= MOST_TEXT:
        raise ValueError(f"a text of at most {MOST_TEXT} characters")
    return value


def _speed(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MOST_SPEED:
        raise ValueError(f"a number from 0 to {MOST_SPEED:g}")
    return float(value)


def _seed(value: Any) -> int:
    return _whole(value, SEED_MOST)


READERS: Mapping[str, Any] = {
    "session": _text, "n": _whole, "action": _action, "who": _text, "greedy": _flag, "denoising": _whole,
    "task": _whole, "speed": _speed, "on": _flag, "steps": _whole, "seed": _seed, "recording": _whole, "step": _whole,
    "view": _whole,
}  # fmt: skip


def parse(text: str | bytes) -> Message:
    """A message as its class.

    Raises:
        Refused: in one line, whatever is wrong with it.
    """
    size = len(text.encode() if isinstance(text, str) else text)
    if size > MOST_BYTES:
        raise Refused(f"a message has {size} bytes; at most {MOST_BYTES} are read")
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        raise Refused("a message is not JSON") from None
    if not isinstance(found, dict):
        raise Refused("a message is not a JSON object")
    kind = KINDS.get(found.pop("type", None) or "") if isinstance(found.get("type", ""), str) else None
    if kind is None:
        raise Refused(f"a message has none of the types {', '.join(KINDS)}")
    return _read(kind, found)


def _read(kind: type[Any], found: Mapping[str, Any]) -> Message:
    called = next(name for name, one in KINDS.items() if one is kind)
    values: dict[str, Any] = {}
    for field, value in found.items():
        if field not in kind._fields:
            raise Refused(f"{called} has no {shown_name(field[:MOST_TEXT])!r}")
        is_optional = kind._field_defaults.get(field, 0) is None or (kind is Hold and field == "action")
        if value is None and is_optional:
            values[field] = None
            continue
        try:
            values[field] = READERS[field](value)
        except ValueError as error:
            raise Refused(f"{field} of {called} must be {error}") from None
    missing = [field for field in kind._fields if field not in values and field not in kind._field_defaults]
    if missing:
        raise Refused(f"{called} needs {missing[0]}")
    if kind is Start and None not in (values.get("seed"), values.get("recording")):
        raise Refused("start takes a seed or a recording, not both")
    message: Message = kind(**values)
    return message


def text(kind: str, **fields: Any) -> str:
    """A message to a page."""
    return to_json({"type": kind, **fields})


def pack(head: Mapping[str, Any], pictures: Sequence[NDArray[np.uint8]]) -> bytes:
    """A message with pictures."""
    words = to_json(head).encode("ascii")
    return b"".join([struct.pack("<I", len(words)), words, *(np.ascontiguousarray(one).tobytes() for one in pictures)])


def unpack(packed: bytes) -> tuple[dict[str, Any], bytes]:
    """The JSON object and the raw pictures of what `pack` made."""
    (size,) = struct.unpack_from("<I", packed)
    head: dict[str, Any] = json.loads(packed[4 : 4 + size])
    return head, packed[4 + size :]
