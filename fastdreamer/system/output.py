"""What commands print: numbers one a line, tables, and the one line of JSON.

Names out of files cannot move the cursor, colour the screen or begin a line: the streams are cleaned as a whole, so
that no printing place can forget it; only the progress bar goes around.
"""

from __future__ import annotations

import json
import math
import re
import select
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

# Control characters but for tab and newline, what reorders or hides text, line separators, and lone surrogates.
_OBEYED = "\x00-\x08\x0b-\x0c\x0e-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff"
_STDOUT, _STDERR = re.compile(f"[{_OBEYED}\r]"), re.compile(f"[{_OBEYED}]")  # download bars return to their line


class Clean:
    """A text stream that shows what a terminal would obey, and what its encoding lacks, as escapes."""

    def __init__(self, stream: Any, obeyed: re.Pattern[str], called: str) -> None:
        self.stream, self._obeyed, self._called = stream, obeyed, called

    def write(self, text: str) -> int:
        shown = self._obeyed.sub(_escape, text)
        encoding = getattr(self.stream, "encoding", None) or "utf-8"
        with self._named():
            self.stream.write(shown.encode(encoding, "backslashreplace").decode(encoding))
        return len(text)

    def flush(self) -> None:
        with self._named():
            self.stream.flush()

    @contextmanager
    def _named(self) -> Iterator[None]:
        """What the system refuses is refused to this stream, not to a file that nobody knows."""
        try:
            yield
        except OSError as error:
            error.filename = error.filename or self._called
            raise

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


@contextmanager
def clean_streams() -> Iterator[None]:
    """Standard output and error are cleaned within the block."""
    before = sys.stdout, sys.stderr  # None where the caller closed it: what is printed then goes nowhere
    if sys.stdout is not None:
        sys.stdout = Clean(sys.stdout, _STDOUT, "standard output")
    if sys.stderr is not None:
        sys.stderr = Clean(sys.stderr, _STDERR, "standard error")
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def is_unread() -> bool:
    """Whether standard output or error is a pipe that nobody reads any more."""
    unread = select.poll()
    for handle in (1, 2):
        unread.register(handle, 0)
    return any(event & select.POLLERR for _, event in unread.poll(0))


def uncleaned(stream: Any) -> Any:
    """The stream below, for what moves the cursor on purpose."""
    return stream.stream if isinstance(stream, Clean) else stream


def one_line(text: str) -> str:
    """Several lines as one, with nothing in it that a terminal obeys."""
    return _STDOUT.sub(_escape, " ".join(line.strip() for line in text.split("\n")))


def name(text: str) -> str:
    """A name out of a file for a line of its own: newlines and tabs are escaped too."""
    return one_line(text.replace("\n", "\\n").replace("\t", "\\t"))


def _escape(found: re.Match[str]) -> str:
    code = ord(found[0])
    if 0xDC80 <= code <= 0xDCFF:  # a byte of a name that is not UTF-8
        code -= 0xDC00
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def show(result: Mapping[str, Any]) -> dict[str, Any]:
    """Print numbers one a line, nested ones under dotted names; returns them."""
    lines = {name(key): name(text) for key, text in _lines(result)}
    width = max(map(len, lines), default=0)
    for key, text in lines.items():
        print(f"{key:<{width}}  {text}")
    return dict(result)


def show_tables(result: Mapping[str, Any]) -> None:
    """Print the numbers, then every list of rows as a table, then the files."""
    tables = {name: rows for name, rows in result.items() if isinstance(rows, list) and rows}
    plain = {name: value for name, value in result.items() if name not in (*tables, "files") and value != []}
    show(plain)
    for name, rows in tables.items():
        columns = list(rows[0])
        cells = [[str(column) for column in columns], *([_cell(key, row[key]) for key in columns] for row in rows)]
        aligned = ["<" if isinstance(rows[0][column], str) else ">" for column in columns]
        print(f"\n{name.replace('_', ' ')}")
        print(*(f"  {line}" for line in in_columns(cells, aligned)), sep="\n")
    print()
    for what, file in result.get("files", {}).items():
        print(f"{what}: {file}")


def in_columns(rows: Sequence[Sequence[str]], sides: Sequence[str] = ()) -> list[str]:
    """Rows as lines whose cells stand below one another; `sides` are "<" (of all, if none are given) or ">"."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    how = list(zip(sides or "<" * len(widths), widths, strict=True))
    return ["  ".join(f"{c:{side}{width}}" for c, (side, width) in zip(row, how, strict=True)).rstrip() for row in rows]


def _cell(column: str, value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.1%}" if column == "share" else f"{value:,.2f}"
    return name(str(value))


def to_json(result: Mapping[str, Any]) -> str:
    """One line of strict JSON (see `strict`)."""
    return json.dumps(strict(result), allow_nan=False)


def strict(value: Any) -> Any:
    """A value as JSON has it: null for numbers that are not finite, paths as text."""
    if hasattr(value, "item") and getattr(value, "ndim", 1) == 0:  # a NumPy or torch scalar
        value = value.item()
    elif hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): strict(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [strict(entry) for entry in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)


def _lines(result: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in result.items():
        if isinstance(value, Mapping):
            yield from _lines(value, f"{prefix}{key}.")
        elif isinstance(value, float):
            yield f"{prefix}{key}", f"{value:.5g}"
        elif isinstance(value, list | tuple) and len(value) > 6:
            yield f"{prefix}{key}", f"{len(value)} values"
        else:
            yield f"{prefix}{key}", str(value)
