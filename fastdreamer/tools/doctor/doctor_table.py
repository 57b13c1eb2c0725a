"""The doctor's findings as text: a table of parts, one of engines, one of commands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fastdreamer.system.advice import plain


def render(found: Mapping[str, Any]) -> str:
    """The report. What mends a part stands under it; with a command it is repeated unless it names a path."""
    lines = _table([[row["verdict"], row["part"], row["found"]] for row in found["parts"]])
    marked = []
    for line, row in zip(lines, found["parts"], strict=True):
        marked += [line] + ([f"{'':9}-> {row['mend']}"] if row["mend"] else [])
    text = ["parts", *marked]
    if found["engines"]:
        columns = ("state", "part", "backend", "target", "precision", "reason")
        rows = _table([[str(row[column]) for column in columns] for row in found["engines"]])
        text += ["", "engines"]
        for line, row in zip(rows, found["engines"], strict=True):
            text += [line] + ([f"{'':9}-> {row['mend']}"] if row["mend"] else [])
    text += ["", "commands", *_table([_command(row) for row in found["commands"]])]
    wrong = [name for name in found["refused"] if name != "demo"]
    text += ["", f"wrong: {', '.join(wrong) or 'nothing'}; {plain('demo')} {'can' if found['demo'] else 'cannot'} run"]
    return "\n".join(text)


def _command(row: Mapping[str, Any]) -> list[str]:
    if row["ready"]:
        return ["ready", row["command"], row["note"]]
    mends = [mend if "/" not in mend else "see above" for mend in row["mend"]]
    needs = f"needs {', '.join(row['lacks'])}"
    return ["not yet", row["command"], needs + (f": {'; '.join(dict.fromkeys(mends))}" if mends else "")]


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max((len(row[i]) for row in rows), default=0) for i in range(max(map(len, rows), default=0))]
    return ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
