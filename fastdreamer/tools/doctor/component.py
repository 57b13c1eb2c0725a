"""A row of the doctor's table."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

Verdict = Literal["ok", "missing", "wrong"]


@dataclass(frozen=True)
class Component:
    """Something that a command may need.

    Attributes:
        name: the component's name; a library has the name that pip knows.
        found: what is there, for people.
        verdict: `missing` is not there, and only some commands need it; `wrong` is there and cannot be used as it is.
        mend: the line that mends it; empty where there is nothing to mend.
    """

    name: str
    found: str
    verdict: Verdict = "ok"
    mend: str = ""

    def to_dict(self) -> dict[str, Any]:
        """The component as plain values, for JSON."""
        values = asdict(self)
        return {"part": values.pop("name")} | values


def one_line(error: BaseException | str, most: int = 180) -> str:
    """An error in a line: its type, then its words."""
    kind = "" if isinstance(error, str) else f"{type(error).__name__}: "
    text = kind + " ".join(str(error).split())
    return text.removesuffix(": ") if len(text) <= most else f"{text[: most - 3]}..."
