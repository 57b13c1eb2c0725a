"""How large a file of a recording may be: a sparse file of a terabyte costs nobody anything, but whoever reads it."""

from __future__ import annotations

from pathlib import Path

from fastdreamer.errors import UserError

MOST_VIDEO_BYTES = 2**36  # a day of 4K
MOST_LABEL_BYTES = 2**32  # lines of VPT are some thousands of bytes, 20 a second: half a day
MOST_ARRAY_BYTES = 2**29  # limit of all arrays of a recording together, unpacked
MOST_LINE_BYTES = 2**20  # a line of VPT has some thousands
MOST_PIXELS = 2**25  # limit of a frame: 8K has 33 million


def check_bytes(path: Path, size: int, most: int, what: str = "it") -> None:
    """Refuse what is too large to be what it says it is.

    Raises:
        UserError: naming the file, its size and the bound.
    """
    if size > most:
        raise UserError(f"{path.name}: {what} has {size:,} bytes; more than {most:,} are not read")
