"""What a folder of recordings holds: episodes, returns, actions, and what is damaged and why."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from fastdreamer.errors import UserError
from fastdreamer.recordings.actions import ActionSpace, action_space
from fastdreamer.recordings.counters import total_gain
from fastdreamer.recordings.frame_times import count_rates, describe_mix
from fastdreamer.recordings.identity import without_links
from fastdreamer.recordings.read import check_recording, find_incomplete, find_recordings, guess_space
from fastdreamer.recordings.recording import Recording
from fastdreamer.system.cores import count_cores
from fastdreamer.system.json_files import TEXT, fault
from fastdreamer.system.progress import track

_BAR_WIDTH = 30
_LISTED = 20  # mended recordings in the text; the JSON has all


@dataclass
class _Episode:
    """What is kept of one recording: figures, not frames; or only the reason why it cannot be read."""

    recording: Recording
    damaged: str = ""
    mended: tuple[str, ...] = ()
    labelled: bool = True
    rewarded: bool = True
    frames: int = 0
    seconds: float = 0.0
    rate: float = 0.0
    size: str = ""
    total: float = 0.0
    terminated: bool = False
    actions: dict[str, dict[str, int]] = field(default_factory=dict)
    achievements: list[str] | None = None
    gains: dict[str, int] = field(default_factory=dict)
    is_counted: bool = False


def inspect_recordings(root: Path, space: str = "auto", decode: bool = True) -> dict[str, Any]:
    """Read every recording under `root` and count. A damaged one is listed with its reason and stops nothing.

    Args:
        root: the folder above the environments' folders.
        space: name of the action space, or `auto` to choose one an environment's folder by its keys.
        decode: decode every video whole; else only count its frames, which finds truncation but not damaged pixels.

    Returns:
        Plain numbers, lists and dicts (ready for JSON): `episodes`, `unlabelled` (those of them without actions),
        `frames`, `seconds` of play and `rates` (frames a second -> recordings), by the videos' own times;
        `return_mean`, `_min` and `_max` (of episodes with rewards) and `length_mean` (steps; None without an episode),
        `terminated` (episodes), `envs` (episodes each), `spaces` (action space of
        each env), `frame_sizes`, `actions` (component -> label -> count), `achievements` (name -> share of the
        episodes that recorded them), `counted` (episodes with counters), `counters` (name -> by how much it rose in
        all of them together: each can be a task), `links` (name to the name of the recording that it leads to: they
        count once), `mended` (what was put right in good episodes) and `damaged`
        ([{"name", "reason"}] both).

    Raises:
        UserError: the folder is missing or holds no recording, or there is no such action space.
    """
    recordings, links = without_links(find_recordings(root), root)
    spaces = _choose_spaces(recordings, space)
    episodes: list[_Episode] = []
    actions: dict[str, Counter[str]] = {}
    gains: Counter[str] = Counter()
    for episode in _read_all(recordings, spaces, decode):
        for component, counts in episode.actions.items():
            actions.setdefault(component, Counter()).update(counts)
        gains.update(episode.gains)
        episodes.append(replace(episode, actions={}, gains={}, is_counted=bool(episode.gains)))  # what is small stays
    good = [episode for episode in episodes if not episode.damaged]
    damaged = [{"name": episode.recording.name, "reason": episode.damaged} for episode in episodes if episode.damaged]
    damaged += [{"name": name, "reason": reason} for name, reason in find_incomplete(root)]
    mended = [{"name": episode.recording.name, "reason": line} for episode in good for line in episode.mended]
    returns = [episode.total for episode in good if episode.rewarded]
    unlocked = [episode.achievements for episode in good if episode.achievements is not None]
    achieved = Counter(name for names in unlocked for name in names)
    steps = [episode.frames - 1 for episode in good]
    return {
        "root": str(root),
        "decoded": decode,
        "episodes": len(good),
        "unlabelled": sum(not episode.labelled for episode in good),
        "frames": sum(episode.frames for episode in good),
        "seconds": sum(episode.seconds for episode in good),
        "rates": count_rates(episode.rate for episode in good),
        "return_mean": float(np.mean(returns)) if returns else None,
        "return_min": min(returns, default=None),
        "return_max": max(returns, default=None),
        "length_mean": float(np.mean(steps)) if good else None,
        "terminated": sum(episode.terminated for episode in good),
        "envs": dict(Counter(episode.recording.env for episode in good)),
        "spaces": _space_names(spaces),
        "frame_sizes": dict(Counter(episode.size for episode in good)) if decode else {},
        "actions": {component: dict(counts) for component, counts in actions.items()},
        "achievements": {name: count / len(unlocked) for name, count in achieved.most_common()},
        "counted": sum(episode.is_counted for episode in good),
        "counters": dict(gains.most_common()),
        "links": links,
        "mended": mended,
        "damaged": damaged,
    }


Spaces = dict[tuple[str, str], ActionSpace]  # the space of an env's recordings of one format


def _choose_spaces(recordings: list[Recording], name: str) -> Spaces:
    """The named action space, or that of the first readable recording of an env and format."""
    spaces: Spaces = {}
    for recording in recordings:
        if (recording.env, recording.format) not in spaces:
            try:
                space = guess_space(recording) if name == "auto" else action_space(name)
                spaces[recording.env, recording.format] = space
            except UserError:
                if name != "auto":
                    raise
    return spaces


def _space_names(spaces: Spaces) -> dict[str, str]:
    names: dict[str, list[str]] = {}
    for (env, _), space in spaces.items():
        names.setdefault(env, []).append(space.name)
    return {env: " and ".join(sorted(set(found))) for env, found in names.items()}


def _read_all(recordings: list[Recording], spaces: Spaces, decode: bool) -> Iterator[_Episode]:
    def read(recording: Recording) -> _Episode:
        try:
            return _read(recording, spaces.get((recording.env, recording.format)) or guess_space(recording), decode)
        except UserError as error:
            return _Episode(recording, damaged=str(error).removeprefix(f"recording {recording.name}: "))

    # Threads are enough: libav decodes and converts outside of Python's lock.
    with ThreadPoolExecutor(count_cores()) as pool, track("inspect", len(recordings), "episodes") as bar:
        for episode in pool.map(read, recordings):
            bar.advance(1)
            yield episode


def _read(recording: Recording, space: ActionSpace, decode: bool) -> _Episode:
    aligned, (height, width), times = check_recording(recording, space, decode)
    trajectory = aligned.trajectory
    components = space.components if trajectory.labelled else ()
    counts = {
        component.name: dict(zip(component.labels, np.bincount(column, minlength=component.size).tolist(), strict=True))
        for component, column in zip(components, trajectory.actions.T, strict=trajectory.labelled)
    }
    total, names = float(trajectory.rewards.sum(dtype=np.float64)), trajectory.metadata.get("achievements")
    return _Episode(
        recording,
        mended=aligned.mended,
        labelled=trajectory.labelled,
        rewarded=trajectory.rewarded,
        frames=len(trajectory),
        seconds=times.seconds(int(aligned.picked[-1])) - times.seconds(int(aligned.picked[0])),
        rate=times.per_s,
        size=f"{width}x{height}",
        total=round(total, 6),
        terminated=bool(trajectory.terminals[-1]),
        actions=counts,
        achievements=None if fault(names, [TEXT]) else names,  # the file may be a stranger's
        gains={name: total_gain(values) for name, values in trajectory.counters.items()},
    )


def render_inspection(found: dict[str, Any]) -> str:
    """The result of `inspect_recordings` as text for a terminal, no longer than 100 columns but for names and paths."""
    minutes = found["seconds"] / 60
    sizes = ", ".join(found["frame_sizes"]) or "not decoded"
    lines = [
        f"{found['root']}: {found['episodes']:,} episodes, {found['frames']:,} frames ({sizes}), "
        f"{minutes:,.1f} minutes of play"
    ]
    lines += [f"  {env}: {count:,} episodes, actions as {found['spaces'][env]}" for env, count in found["envs"].items()]
    if mix := describe_mix(found["rates"]):
        lines.append(f"rates    {mix}")
    if found["unlabelled"]:
        lines.append(f"unlabelled {found['unlabelled']:,} of {found['episodes']:,} episodes: videos without actions")
    if found["episodes"]:
        mean, low, high = (found[f"return_{what}"] for what in ("mean", "min", "max"))
        lines.append(
            ("return   unknown; " if mean is None else f"return   mean {mean:.2f}, from {low:.2f} to {high:.2f}; ")
            + f"{found['length_mean']:,.0f} steps an episode; {found['terminated']:,} end in a terminal state"
        )
    for component, counts in found["actions"].items():
        lines += _histogram(component, counts)
    if found["achievements"]:
        lines.append("achievements (share of episodes)")
        lines += [_bar(name, f"{share:7.1%}", share) for name, share in found["achievements"].items()]
    if found["counted"]:
        rising = [f"{name} {gain:,}" for name, gain in found["counters"].items() if gain]
        lines.append(f"counters of {found['counted']:,} episodes, for tasks; {len(rising)} rise, by so much in all")
        lines += textwrap.wrap(", ".join(rising), 100, initial_indent="  ", subsequent_indent="  ")
    if links := found["links"]:
        lines.append(f"links    {len(links):,} to other recordings, which count once")
        lines += [f"  {link}: {other}" for link, other in list(links.items())[:_LISTED]]
        lines += [f"  and {len(links) - _LISTED} more"] if len(links) > _LISTED else []
    mended, damaged = found["mended"], found["damaged"]
    if mended:
        lines.append(f"mended   {len(mended)}")
        lines += [f"  {item['name']}: {item['reason']}" for item in mended[:_LISTED]]
        lines += [f"  and {len(mended) - _LISTED} more"] if len(mended) > _LISTED else []
    lines.append(f"damaged  {len(damaged)}" if damaged else "damaged  none")
    lines += [f"  {item['name']}: {item['reason']}" for item in damaged]
    return "\n".join(lines)


def _histogram(component: str, counts: dict[str, int]) -> list[str]:
    total = max(sum(counts.values()), 1)
    if set(counts) == {"0", "1"}:
        return [_bar(component, f"{counts['1'] / total:7.1%}", counts["1"] / total, indent="")]
    return [component] + [_bar(label, f"{n / total:7.1%} {n:9,}", n / total) for label, n in counts.items()]


def _bar(label: str, figures: str, share: float, indent: str = "  ") -> str:
    return f"{indent + label:24s} {figures} {'#' * round(share * _BAR_WIDTH)}".rstrip()
