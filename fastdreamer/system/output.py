"""What commands print: numbers one a line, tables, and the one line of JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fastdreamer.system.terminal import name as shown_name


def show(result: Mapping[str, Any]) -> dict[str, Any]:
    """Print numbers one a line, nested ones under dotted names; returns them."""
    lines = {shown_name(key): shown_name(text) for key, text in _lines(result)}
    width = max(map(len, lines), default=0)
    for name, text in lines.items():
        print(f"{name:<{width}}  {text}")
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
    return shown_name(str(value))


def to_json(result: Mapping[str, Any]) -> str:
    """One line of strict JSON: what is not a finite number becomes null, paths become text."""
    return json.dumps(_strict(result), allow_nan=False)


def _strict(value: Any) -> Any:
    if hasattr(value, "item") and getattr(value, "ndim", 1) == 0:  # a NumPy or torch scalar
        value = value.item()
    elif hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): _strict(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_strict(entry) for entry in value]
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
