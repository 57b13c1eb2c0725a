"""Which episodes are trained on, and which are held out."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256


def assign_splits(names: Iterable[str], held_out: float) -> dict[str, str]:
    """`train` or `held_out` by a hash of the name: stable when episodes are added.

    With two episodes or more each split gets at least one.
    """
    ranks = {name: int.from_bytes(sha256(name.encode()).digest()[:8], "big") / 2**64 for name in names}
    splits = {name: "held_out" if rank < held_out else "train" for name, rank in ranks.items()}
    if len(ranks) == 1:
        return dict.fromkeys(ranks, "train")
    for split, pick in (("held_out", min), ("train", max)):
        if ranks and split not in splits.values():
            splits[pick(ranks, key=ranks.__getitem__)] = split
    return splits
