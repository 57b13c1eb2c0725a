"""What a latent store holds, by its manifest: no episode is read, so it takes seconds however many there are."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from fastdreamer.latents.journal import JOURNAL
from fastdreamer.latents.manifest import FOLDER, MANIFEST, read_manifest
from fastdreamer.recordings.frame_times import count_rates, describe_mix
from fastdreamer.recordings.printable import printable

_LISTED = 20  # of what is set aside, in the text; the JSON has all


def is_store(folder: Path) -> bool:
    """Whether a folder is one of a latent store, whole or not."""
    return (folder / MANIFEST).is_file() and (folder / FOLDER).is_dir()


def inspect_store(path: Path) -> dict[str, Any]:
    """Count what a store holds. Its files are looked for, and not read: `LatentStore.open` checks them.

    Returns:
        Plain numbers, lists and dicts (ready for JSON): `episodes`, `frames`, `steps` and `bytes` (of all files);
        `splits` and `tasks` (episodes of each), `unlabelled` and `unrewarded` (episodes without actions, without
        rewards), `counters` (name -> episodes that count it), `rates` (frames a second -> episodes), `key` (what the
        latents were made by), `space`, `mended`, `skipped` (name -> reason), `missing` (names of episodes that have
        no file), `is_finished` (False: `encode` has not come to its end).

    Raises:
        UserError: if it is no store, or its manifest or journal is damaged.
    """
    manifest = read_manifest(path)
    entries: Mapping[str, Mapping[str, Any]] = manifest["episodes"]
    sizes = {name: _size(f"{path}/{FOLDER}/{entry['file']}") for name, entry in entries.items()}
    tasks = manifest.get("tasks", [])
    numbers = Counter(entry.get("task", 0) for entry in entries.values())
    return {
        "store": str(path),
        "episodes": len(entries),
        "frames": _total(entries, "frames"),
        "steps": _total(entries, "steps"),
        "bytes": sum(size or 0 for size in sizes.values()),
        "splits": _counted(entry["split"] for entry in entries.values()),
        "tasks": {tasks[n] if n < len(tasks) else f"task {n}": count for n, count in sorted(numbers.items())},
        "unlabelled": sum(not entry["labelled"] for entry in entries.values()),
        "unrewarded": sum(not entry.get("rewarded", True) for entry in entries.values()),
        "counters": _counted(name for entry in entries.values() for name in entry.get("counters", ())),
        "rates": count_rates(entry.get("frames_per_s", 0.0) for entry in entries.values()),
        "key": manifest["key"],
        "space": manifest["space"]["name"],
        "mended": sum("mended" in entry for entry in entries.values()),
        "skipped": manifest.get("skipped", {}),
        "missing": [name for name, size in sizes.items() if size is None],
        "is_finished": not (path / JOURNAL).exists(),
    }


def render_store(found: dict[str, Any]) -> str:
    """The result of `inspect_store` as text for a terminal; names may be a stranger's."""

    def listed(what: str, form: str = "{} {:,}") -> str:
        return printable(", ".join(form.format(name, value) for name, value in found[what].items()))

    skipped, missing = found["skipped"], found["missing"]
    lines = [
        f"{found['store']}: a latent store of {found['episodes']:,} episodes, {found['frames']:,} frames, "
        f"{found['steps']:,} latent steps, {found['bytes'] / 2**30:,.2f} GiB",
        f"made by  {listed('key', '{} {}')}",
        f"splits   {listed('splits')}",
        f"tasks    {listed('tasks')}; actions as {printable(found['space'])}",
    ]
    if mix := describe_mix(found["rates"]):
        lines.append(f"rates    {mix}")
    for what, of in (("unlabelled", "actions"), ("unrewarded", "rewards")):
        lines += [f"unknown  {found[what]:,} episodes have no {of}"] if found[what] else []
    if counters := found["counters"]:
        lines.append(f"counters {len(counters):,}, for tasks, in up to {max(counters.values()):,} episodes")
    lines += [f"mended   {found['mended']:,}"] if found["mended"] else []
    if not found["is_finished"]:
        lines.append("unfinished: encode has not come to its end, and goes on when it is started again")
    lines += [f"missing  {len(missing):,} files; the first is of {printable(missing[0])}"] if missing else []
    lines.append(f"damaged  {len(skipped):,} recordings were set aside" if skipped else "damaged  none was set aside")
    lines += [f"  {printable(name)}: {printable(reason)}" for name, reason in list(skipped.items())[:_LISTED]]
    more = len(skipped) - _LISTED
    return "\n".join([*lines, f"  and {more:,} more"] if more > 0 else lines)


def _size(file: str) -> int | None:
    try:
        return os.stat(file).st_size
    except OSError:
        return None


def _total(entries: Mapping[str, Mapping[str, Any]], what: str) -> int:
    return sum(entry[what] for entry in entries.values())


def _counted(values: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(values).items()))
