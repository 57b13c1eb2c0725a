"""Names and reasons as text that a terminal shows as it is: they come from files, which may be a stranger's."""

from __future__ import annotations

import os
from hashlib import sha256

_SHOWN = 200  # characters of an exception's own words


def printable(text: object) -> str:
    r"""One line: white space is one blank, and what is no character, or commands a terminal, an escape like `\x1b`."""
    line = " ".join(str(text).split())
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in line)


def file_name(text: str) -> str:
    """The name as it can be printed and stored; where that is another, with a hash, so that none other becomes it."""
    if text.isprintable():
        return text
    shown = "".join(c if c.isprintable() else "".join(f"%{b:02X}" for b in os.fsencode(c)) for c in text)
    return f"{shown}~{sha256(os.fsencode(text)).hexdigest()[:8]}"


def said(error: BaseException) -> str:
    """What an exception says, in a few words, with its kind where it is none of the system's."""
    words = str(getattr(error, "strerror", None) or error)
    return printable(words if words and isinstance(error, OSError) else f"{type(error).__name__} {words}")[:_SHOWN]
