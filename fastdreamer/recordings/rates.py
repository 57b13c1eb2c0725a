"""Frame rates of recordings: a latent step is so many frames, however long they last, so mixed rates mix clocks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable


def count_rates(rates: Iterable[float]) -> dict[str, int]:
    """How many recordings have which frames a second, the most common first; 0 is unknown and not counted."""
    return {f"{rate:g}": count for rate, count in Counter(rate for rate in rates if rate).most_common()}


def describe_mix(counts: dict[str, int]) -> str:
    """A line for rates that differ by more than rounding; empty where they are one."""
    rates = [float(rate) for rate in counts]
    if not rates or max(rates) <= 1.02 * min(rates):
        return ""
    shown = ", ".join(f"{rate} ({count:,} recordings)" for rate, count in counts.items())
    return f"frames a second differ: {shown}; a step of the world model is as many frames in each, so not as long"
