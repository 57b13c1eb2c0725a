"""Allocations and frees played again: how much was held when, and by whom at the peak."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Change:
    """A block is taken (`size_bytes` above 0) or given back (below 0), at a time in ms; `by` says by what."""

    at_ms: float
    address: int
    size_bytes: int
    by: str = ""


@dataclass(frozen=True)
class Held:
    """What blocks of one origin hold at one time."""

    by: str
    size_bytes: int
    blocks: int


@dataclass(frozen=True)
class Timeline:
    """Bytes over time; 0 is what was held when the recording began.

    Attributes:
        times_ms: time of every change, from the first one on.
        held: bytes after each change, by origin.
        total: their sum, less what was given back that had been taken before.
        peak: index of the highest total.
        at_peak: who holds it, the largest first.
    """

    times_ms: list[float]
    held: list[dict[str, int]]
    total: list[int]
    peak: int
    at_peak: list[Held]

    @property
    def peak_bytes(self) -> int:
        """The highest total."""
        return self.total[self.peak] if self.total else 0


def replay(changes: Iterable[Change], points: int = 600) -> Timeline:
    """Plays changes in order of time; of the held bytes at most about `points` states are kept, the peak among them."""
    ordered = sorted(changes, key=lambda change: change.at_ms)
    totals, total = [], 0
    for change in ordered:
        total += change.size_bytes
        totals.append(total)
    peak = max(range(len(totals)), key=totals.__getitem__, default=0)
    every = max(1, len(ordered) // points)
    alive: dict[int, Change] = {}
    held: Counter[str] = Counter()
    times: list[float] = []
    states: list[dict[str, int]] = []
    kept: list[int] = []
    at_peak: list[Held] = []
    begin = ordered[0].at_ms if ordered else 0.0
    for number, change in enumerate(ordered):
        if change.size_bytes > 0:
            alive[change.address] = change
            held[change.by] += change.size_bytes
        elif (taken := alive.pop(change.address, None)) is not None:
            held[taken.by] -= taken.size_bytes
        if number == peak:
            at_peak = _by_origin(alive.values())
        if number % every == 0 or number == peak:
            times.append(change.at_ms - begin)
            states.append({by: size for by, size in held.items() if size})
            kept.append(totals[number])
    return Timeline(times, states, kept, max(range(len(kept)), key=kept.__getitem__, default=0), at_peak)


def _by_origin(blocks: Iterable[Change]) -> list[Held]:
    sizes: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    for block in blocks:
        sizes[block.by] += block.size_bytes
        counts[block.by] += 1
    return [Held(by, size, counts[by]) for by, size in sizes.most_common()]
