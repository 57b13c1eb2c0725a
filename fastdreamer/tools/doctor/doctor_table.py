"""The doctor's findings as text: a table of parts, one of engines, one of commands."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fastdreamer.system.advice import plain
from fastdreamer.system.output import in_columns


def render(found: Mapping[str, Any]) -> str:
    """The report. What mends a part stands under it; with a command it is repeated unless it names a path."""
    lines = in_columns([[row["verdict"], row["part"], row["found"]] for row in found["parts"]])
    text = ["parts", *_with_mends(lines, found["parts"])]
    if found["engines"]:
        columns = ("state", "part", "backend", "target", "precision", "reason")
        rows = in_columns([[str(row[column]) for column in columns] for row in found["engines"]])
        text += ["", "engines", *_with_mends(rows, found["engines"])]
    text += ["", "commands", *in_columns([_command(row) for row in found["commands"]])]
    wrong = [name for name in found["refused"] if name != "demo"]
    text += ["", f"wrong: {', '.join(wrong) or 'nothing'}; {plain('demo')} {'can' if found['demo'] else 'cannot'} run"]
    return "\n".join(text)


def _with_mends(lines: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for line, row in zip(lines, rows, strict=True):
        yield line
        if row["mend"]:
            yield f"{'':9}-> {row['mend']}"


def _command(row: Mapping[str, Any]) -> list[str]:
    if row["ready"]:
        return ["ready", row["command"], row["note"]]
    mends = [mend if "/" not in mend else "see above" for mend in row["mend"]]
    needs = f"needs {', '.join(row['lacks'])}"
    return ["not yet", row["command"], needs + (f": {'; '.join(dict.fromkeys(mends))}" if mends else "")]
