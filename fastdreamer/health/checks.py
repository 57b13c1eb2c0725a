"""What a check says: a value, what was expected, a verdict, and what helps where it is not well."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

Verdict = Literal["ok", "amber", "red", "too early", "not measured"]
WORST: tuple[Verdict, ...] = ("ok", "not measured", "too early", "amber", "red")


@dataclass(frozen=True)
class Check:
    """One check: its value, its verdict, and what helps.

    Attributes:
        group: what it is about, one of GROUPS; a cause raises flags of its own group.
        name: the check's name, in a few words.
        value: what was found, as text.
        expected: what a healthy run shows.
        verdict: `red` is a flag, `amber` a warning; `too early` means that more steps or samples are needed.
        remedy: what helps, in a sentence; empty where all is well.
    """

    group: str
    name: str
    value: str
    expected: str
    verdict: Verdict = "ok"
    remedy: str = ""

    def about(self, task: str) -> Check:
        """The same check, of one of several tasks."""
        return replace(self, name=f"{self.name}, task {task}")

    @property
    def is_raised(self) -> bool:
        """Whether somebody should look."""
        return self.verdict in ("amber", "red")

    def to_dict(self) -> dict[str, Any]:
        """The check as plain values, for JSON."""
        return asdict(self)

    def sentence(self) -> str:
        """The flag as one line."""
        return f"{self.name} is {self.value} (expected {self.expected}): {self.remedy}"


GROUPS = (
    "models", "memory", "data", "frames", "latents", "reconstruction", "loss", "gradient", "actions", "policy",
    "reward", "value", "advantage", "imagination", "prior", "checkpoint",
)  # fmt: skip


def check(
    group: str,
    name: str,
    value: str,
    expected: str,
    remedy: str,
    *,
    of: Iterable[float] = (),
    red: bool = False,
    amber: bool = False,
) -> Check:
    """A check whose verdict follows from `red` and `amber`; the remedy is kept only where one of them holds.

    `of` are the figures that they compare: one that is not finite is red, for with NaN no comparison holds.
    """
    if group not in GROUPS:
        raise ValueError(f"no group {group!r}; there are {', '.join(GROUPS)}")
    red = red or not all(map(math.isfinite, of))
    verdict: Verdict = "red" if red else "amber" if amber else "ok"
    return Check(group, name, value, expected, verdict, remedy if red or amber else "")


def worst(checks: Iterable[Check]) -> Verdict:
    """The worst verdict among them; ok where there are none."""
    return max((check.verdict for check in checks), key=WORST.index, default="ok")
