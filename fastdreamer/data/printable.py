"""Names and reasons as text that a terminal shows as it is: they come from files, which may be a stranger's."""

from __future__ import annotations

import os

_SHOWN = 200  # characters of an exception's own words


def printable(text: object) -> str:
    r"""One line: white space is one blank, and what is no character, or commands a terminal, an escape like `\x1b`."""
    line = " ".join(str(text).split())
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in line)


def file_name(text: str) -> str:
    """A name that can be printed and stored, and that no other name becomes but one which spells the escapes out."""
    return "".join(c if c.isprintable() else "".join(f"%{b:02X}" for b in os.fsencode(c)) for c in text)


def said(error: BaseException) -> str:
    """What an exception says, in a few words, with its kind where it is none of the system's."""
    words = str(getattr(error, "strerror", None) or error)
    return printable(words if words and isinstance(error, OSError) else f"{type(error).__name__} {words}")[:_SHOWN]
