"""The split of episodes into those that are trained on and those that are held out."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from hashlib import sha256
from typing import Any


def assign_splits(names: Iterable[str], held_out: float) -> dict[str, str]:
    """`train` or `held_out` by a hash of the name; with two episodes or more each split gets at least one."""
    return force_both({name: natural_split(name, held_out) for name in names})


def natural_split(name: str, held_out: float) -> str:
    """`train` or `held_out` by a hash of the name alone: stable, whatever else there is."""
    return "held_out" if _rank(name) < held_out else "train"


def marks(entry: Mapping[str, Any]) -> set[str]:
    """What a store's entry says of its video: the hash of the file and, for one in another container, of its pixels."""
    return {f"{what}:{entry[what]}" for what in ("video_sha256", "sampled_sha256") if entry.get(what)}


def same_videos(entries: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """What tells the videos of entries apart: the same where a mark is, and empty where there is none."""
    leader: dict[str, str] = {}

    def lead(mark: str) -> str:
        while leader.setdefault(mark, mark) != mark:
            mark = leader[mark]
        return mark

    for entry in entries.values():
        first, *others = sorted(marks(entry)) or [""]
        for other in others:
            leader[lead(other)] = lead(first)
    return {name: lead(min(marks(entry), default="")) for name, entry in entries.items()}


def divide(natural: Mapping[str, str], videos: Mapping[str, str], before: Mapping[str, str]) -> dict[str, str]:
    """The split of every episode: what it was before, or its natural one, unless a split would have no episode.

    Episodes with the same video are on one side, unless there is no other video.

    Args:
        natural: the split of every episode by `natural_split`.
        videos: what tells their videos apart; empty where that is not known.
        before: the splits of those that had one.
    """
    splits = {name: before[name] for name in natural if name in before}
    shown = {name: videos[name] or name for name in natural}
    sides: dict[str, set[str]] = {}
    for name, split in splits.items():
        sides.setdefault(shown[name], set()).add(split)
    is_one_video = len(set(shown.values())) == 1  # then both splits show it, or nothing is held out
    groups: dict[str, list[str]] = {}
    for name in natural.keys() - splits.keys():
        side = sides.get(shown[name], set())
        if len(side) == 1 and not is_one_video:
            splits[name] = min(side)
        else:
            groups.setdefault(name if side or is_one_video else shown[name], []).append(name)
    firsts = {key: min(names) for key, names in groups.items()}
    chosen = force_both({first: natural[first] for first in firsts.values()}, {*splits.values()})
    return splits | {name: chosen[firsts[key]] for key, names in groups.items() for name in names}


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
