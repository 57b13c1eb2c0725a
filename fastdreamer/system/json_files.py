"""JSON objects in files, held against a description of what must stand in them.

A description is one of NUMBER, COUNT, TEXT, FLAG and ANYTHING; a dict of names to descriptions, where a name that ends
in "?" may be missing and names that are not described are let through; `Every` for the values of an object with names
of its own; a list of one description; `Maybe` where null may stand; a function that
says what is wrong.
"""

from __future__ import annotations

import json
import math
import os
import stat
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from fastdreamer.errors import UserError

LARGEST = sys.float_info.max  # a whole number beyond it is none that can be reckoned with
LARGEST_BYTES = 256 << 20
SHOWN = 40  # characters of what stands in a file
AGAIN = "run the command that writes it again, which replaces it"


@dataclass(frozen=True)
class Leaf:
    """A single value: what it is called, and whether one is well."""

    called: str
    holds: Callable[[Any], bool]


@dataclass(frozen=True)
class Every:
    """An object with names of its own, whose values are alike."""

    value: Any


@dataclass(frozen=True)
class Maybe:
    """A value that is null, or what is described."""

    value: Any


NUMBER = Leaf("a number", lambda v: type(v) in (int, float) and not LARGEST < abs(v) < math.inf)
COUNT = Leaf("a whole number from 0 on", lambda v: type(v) is int and 0 <= v < 2**53)
TEXT = Leaf("text", lambda v: isinstance(v, str))
FLAG = Leaf("true or false", lambda v: isinstance(v, bool))
ANYTHING = Leaf("anything", lambda v: True)


def read_object(path: Path, shape: Any, remedy: str = AGAIN, *, follows_links: bool = True) -> dict[str, Any]:
    """The JSON object in `path`, empty if there is no such file; `remedy` is what helps where it is not as described.

    No link is followed for what is shown to others, who may not see what it leads to.

    Raises:
        UserError: naming the file and the key that is wrong.
    """
    if not os.path.lexists(path):
        return {}
    try:
        value = parse(regular_bytes(path, follows_links))
        wrong = fault(value, shape)
    except ValueError as error:
        wrong = str(error)
    if wrong:
        raise UserError(f"{path} is damaged ({wrong}): {remedy}")
    return dict(value)


def read_loosely(path: Path) -> dict[str, Any] | None:
    """The JSON object in `path`; None where there is none that can be read."""
    try:
        value = parse(regular_bytes(path))
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def regular_bytes(path: Path, follows_links: bool = True) -> bytes:
    """The content of a regular file.

    Raises:
        ValueError: if it is anything else, too large, or cannot be read.
    """
    flags = os.O_RDONLY | os.O_NONBLOCK | (0 if follows_links else os.O_NOFOLLOW)
    if not follows_links and path.is_symlink():
        raise ValueError("it is a link")
    try:
        handle = os.open(path, flags)
        with open(handle, "rb") as file:
            about = os.fstat(handle)
            if not stat.S_ISREG(about.st_mode):
                raise ValueError("it is no regular file")
            if about.st_size > LARGEST_BYTES:
                raise ValueError(f"it has {about.st_size:,} bytes")
            return file.read()
    except OSError as error:
        raise ValueError(f"it cannot be read: {error.strerror}") from error


def parse(text: bytes | str) -> Any:
    """Parse a JSON text.

    Raises:
        ValueError: if it is none, or nested beyond what can be read.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"it is no JSON from line {error.lineno}, column {error.colno} on") from None
    except ValueError:
        raise ValueError("it holds a number of too many digits") from None


def digest(content: Any) -> str:
    """SHA-256 of JSON, whatever its spaces and the order of its names."""
    return sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def fault(value: Any, shape: Any, at: str = "") -> str:
    """Say where a value is not as described, and how; empty where it is."""
    here = at or "it"
    if callable(shape):
        wrong: str = shape(value)
        return f"{at}: {wrong}" if at and wrong else wrong
    if isinstance(shape, Maybe):
        return "" if value is None else fault(value, shape.value, at)
    if isinstance(shape, Leaf):
        return "" if shape.holds(value) else f"{here} is {_shown(value)}, not {shape.called}"
    if isinstance(shape, Sequence):
        if not isinstance(value, list):
            return f"{here} is {_shown(value)}, not a list"
        found = (fault(entry, shape[0], f"{at}[{index}]") for index, entry in enumerate(value))
        return next(filter(None, found), "")
    if not isinstance(value, dict):
        return f"{here} is {_shown(value)}, not an object"
    if isinstance(shape, Every):
        found = (fault(entry, shape.value, _below(at, name)) for name, entry in value.items())
        return next(filter(None, found), "")
    for name, described in shape.items():
        bare = name.removesuffix("?")
        if bare not in value:
            if name == bare:
                return f"{here} has no {bare}"
        elif wrong := fault(value[bare], described, _below(at, bare)):
            return wrong
    return ""


def _below(at: str, name: str) -> str:
    plain = name if name.isidentifier() else _shown(name)
    return f"{at}.{plain}" if at else plain


def _shown(value: Any) -> str:
    """A value in a line: short, and without what a terminal would obey."""
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "a list"
    if isinstance(value, int) and abs(value) >= 10**SHOWN:
        return "a number of many digits"
    text = json.dumps(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
