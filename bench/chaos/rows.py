"""What chaos found: a row a kind of try, and the table."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from bench.timing import machine

EXAMPLES = 3


@dataclass(frozen=True)
class Row:
    """A kind of try.

    Attributes:
        part: the part to which it belongs.
        what: was tried.
        tries: how often.
        failures: what went wrong, a line each.
        note: how it was to end, or what was left out.
        seconds: it took; noted by its lane.
    """

    part: str
    what: str
    tries: int
    failures: Sequence[str] = ()
    note: str = ""
    seconds: float = 0.0


@dataclass
class Clock:
    """How long a part may take, from now on."""

    seconds: float
    began: float = field(default_factory=time.monotonic)

    @property
    def ends_at(self) -> float:
        return self.began + self.seconds

    def part(self, share: float) -> Clock:
        """A clock for a share of what is left of this one."""
        return Clock(max(0.0, self.ends_at - time.monotonic()) * share)

    @property
    def is_over(self) -> bool:
        return time.monotonic() > self.ends_at


def table(rows: Sequence[Row], seed: int) -> str:
    """Markdown: the figures, then examples of every kind of failure."""
    lines = [
        "commit {commit}; {processor}, {cores} cores, Python {python}; seed {seed}".format(**machine(), seed=seed),
        "",
        "| part | what | tries | failures | seconds | |",
        "|---|---|--:|--:|--:|---|",
    ]
    lines += [
        f"| {row.part} | {row.what} | {row.tries:,} | {len(row.failures):,} | {row.seconds:.0f} | {row.note} |"
        for row in rows
    ]
    lines.append(f"| | together | {sum(r.tries for r in rows):,} | {sum(len(r.failures) for r in rows):,} | | |")
    for row in rows:
        if row.failures:
            lines += ["", f"{row.part}, {row.what}: {len(row.failures):,} of {row.tries:,} failed"]
            counted = Counter(row.failures).most_common(EXAMPLES)
            lines += [f"    {count:>5} x {text}" for text, count in counted]
    return "\n".join(lines)
