"""Which episodes are trained on, and which are held out."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from hashlib import sha256


def assign_splits(names: Iterable[str], held_out: float) -> dict[str, str]:
    """`train` or `held_out` by a hash of the name; with two episodes or more each split gets at least one."""
    return force_both({name: natural_split(name, held_out) for name in names})


def natural_split(name: str, held_out: float) -> str:
    """`train` or `held_out` by a hash of the name alone: stable, whatever else there is."""
    return "held_out" if _rank(name) < held_out else "train"


def force_both(splits: Mapping[str, str], there: Collection[str] = ()) -> dict[str, str]:
    """The splits of new episodes, with one moved where a split would have none; `there`: what older ones have.

    The first episode of all is trained on.
    """
    if len(splits) == 1 and not there:
        return dict.fromkeys(splits, "train")
    forced = dict(splits)
    for split, pick in (("held_out", min), ("train", max)):
        if forced and split not in {*forced.values(), *there}:
            forced[pick(forced, key=_rank)] = split
    return forced


def _rank(name: str) -> float:
    return int.from_bytes(sha256(name.encode("utf-8", "surrogateescape")).digest()[:8], "big") / 2**64
