"""What the lines of a VPT recording count: `inventory`, a list of {type, quantity}, and `stats`, name to count.

An item is the counter <type>, summed over the slots: `oak_log`. A statistic is its name without `minecraft.` and with a
dot for the colon: `minecraft.mine_block:minecraft.oak_log` is `mine_block.oak_log`. Left out are distances and times
(`*_one_cm`, `*_one_minute`, `*time*`), which grow without being a goal, and statistics that do not change in the
recording: a player's statistics begin with the world, not with the recording.

A line that does not say its inventory (early recorders) or its statistics keeps what the line before said; before the
first that does, its values hold, so that nothing is gained there. A statistic that a line leaves out keeps its value,
for statistics never fall; an item that a line leaves out is gone.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from jaxtyping import Integer

from fastdreamer.recordings.counters import MOST, compact

_GROWING = ("_one_cm", "_one_minute")

Changes = dict[str, list[tuple[int, int]]]  # a counter's (line, value from there on)


class Tally:
    """Takes line after line and keeps where which counter changed.

    Attributes:
        lines: taken so far.
        unread: the lines whose inventory or statistics are there but are not what they must be.
    """

    def __init__(self) -> None:
        self.lines = self.unread = 0
        self._items: Changes | None = None
        self._statistics: Changes | None = None

    def add(self, content: dict[str, Any]) -> None:
        """Takes in the next line."""
        try:
            items, statistics = _items(content.get("inventory")), _statistics(content.get("stats"))
        except (TypeError, ValueError, KeyError):
            self.unread += 1
        else:
            if items is not None:
                self._items = self._noted(self._items, dict.fromkeys(self._items or (), 0) | items)
            if statistics is not None:
                self._statistics = self._noted(self._statistics, statistics)
        self.lines += 1

    def counters(self) -> dict[str, Integer[np.ndarray, " n"]]:
        """Every counter at every line."""
        found = {name: self._values(changes) for name, changes in sorted((self._items or {}).items())}
        for name, changes in sorted((self._statistics or {}).items()):
            if len(changes) > 1:
                found[name] = self._values(changes)
        return found

    def _noted(self, changes: Changes | None, values: dict[str, int]) -> Changes:
        if changes is None:
            return {name: [(0, value)] for name, value in values.items()}
        for name, value in values.items():
            steps = changes.setdefault(name, [(0, 0)])
            if steps[-1][1] != value:
                steps.append((self.lines, value))
        return changes

    def _values(self, changes: list[tuple[int, int]]) -> Integer[np.ndarray, " n"]:
        begins = np.array([line for line, _ in changes] + [self.lines])
        return compact(np.repeat(np.array([value for _, value in changes]), np.diff(begins)))


def _items(inventory: Any) -> dict[str, int] | None:
    if inventory is None:
        return None
    amounts: dict[str, int] = {}
    for slot in _checked(inventory, list):
        name = _checked(slot["type"], str).removeprefix("minecraft:")
        amounts[name] = amounts.get(name, 0) + _count(slot["quantity"])
    return amounts


def _statistics(stats: Any) -> dict[str, int] | None:
    if not _checked({} if stats is None else stats, dict):
        return None  # a player who has joined has some
    named = ((_statistic_name(name), count) for name, count in stats.items())
    return {name: _count(count) for name, count in named if name}


def _checked(value: Any, kind: type) -> Any:
    if not isinstance(value, kind):
        raise TypeError(f"{value!r:.40} is no {kind.__name__}")
    return value


def _count(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MOST:
        raise ValueError(f"{value!r:.40} is no count")
    return value


@lru_cache(4096)
def _statistic_name(name: str) -> str:
    """The counter's name, or "" for what is left out."""
    named = name.replace("minecraft.", "").replace(":", ".")
    return "" if named.endswith(_GROWING) or "time" in named else named
