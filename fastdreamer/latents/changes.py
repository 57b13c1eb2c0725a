"""What became of a store's episodes: how many are new, gone, made anew, or count otherwise than before."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """How some entries differ from others, as in "6 new, 1 gone"; empty if they do not.

    Args:
        before, now: entries by their episodes' names, with `sha256`, `split` and `task`; a missing task is number 0.
    """
    both = before.keys() & now.keys()
    moved = sorted(name for name in both if before[name]["split"] != now[name]["split"])
    counts = {
        "new": len(now.keys() - before.keys()),
        "gone": len(before.keys() - now.keys()),
        "encoded anew": sum(before[name]["sha256"] != now[name]["sha256"] for name in both),
        "in the other split": len(moved),
        "of another task number": sum(before[name].get("task", 0) != now[name].get("task", 0) for name in both),
    }
    said = ", ".join(f"{count:,} {what}" for what, count in counts.items() if count)
    first = f" (the first: {moved[0]}), so held-out figures are of what was trained on" if moved else ""
    return said + first
