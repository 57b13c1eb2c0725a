"""What an unfinished `encode` adds to a store: a line an episode, appended, so that its cost is that of one episode.

Each line hashes itself and names the manifest that it goes on from. The last process that leaves the store settles the
journal: the manifest is replaced, and lines that went on from the one before mean nothing any more.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from fastdreamer.latents.entries import HEIRLOOMS, digest, is_sound, line_fault
from fastdreamer.latents.splits import divide, marks, same_videos
from fastdreamer.system.files import sync, write_atomic

JOURNAL = "journal.jsonl"
_MADE = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
Line = Mapping[str, Any]  # name; `entry`, and `env`, its task, unless that stays; or `reason`: it is set aside


class Journal:
    """The journal of a store that this process works on; every method wants the store's lock.

    Args:
        store: its folder.
        base: what lines name that go on from its manifest (`manifest.read_settled`).
    """

    def __init__(self, store: Path, base: str) -> None:
        self.path, self.base = store / JOURNAL, base
        self.lines: list[Line] = []
        self._end = 0  # bytes read

    def news(self) -> list[Line]:
        """What was appended since, by whomever."""
        return self._found(_tail(self.path, self._end))

    def append(self, line: Line) -> list[Line]:
        """Add a line, and wait until it is on the disk; returns what others appended since `news`.

        The file is opened to be made, which asks the server where the folder is shared over NFS: `news` may have been
        told from memory that there is none.

        Raises:
            OSError, UserError: if the disk refuses; what was there stays.
        """
        content = {"base": self.base, **line}
        data = json.dumps({"sha256": digest(content), **content}).encode() + b"\n"
        with open(os.open(self.path, _MADE, 0o666), "r+b") as file:
            file.seek(self._end)
            others = self._found(file.read())
            if os.fstat(file.fileno()).st_nlink > 1:  # a copy that was made of hard links is another store's
                file.seek(0)
                write_atomic(self.path, file.read(self._end) + data)
            else:
                self._write(file, data)
                if not self._end:
                    sync(self.path.parent)
        self.lines.append(line)
        self._end += len(data)
        return others

    def _found(self, tail: bytes) -> list[Line]:
        whole = tail.rpartition(b"\n")[0]
        found = _parse(whole, self.base)[0]
        self._end += len(whole) + 1 if whole else 0
        self.lines += found
        return found

    def _write(self, file: BinaryIO, data: bytes) -> None:
        file.truncate(self._end)  # what a killed process has begun
        file.seek(self._end)
        try:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        except OSError:
            os.ftruncate(file.fileno(), self._end)
            raise


def read(store: Path, base: str) -> tuple[list[Line], list[int]]:
    """All lines that go on from the manifest, and the numbers of those that are damaged; a last one cut off is none."""
    data = _tail(store / JOURNAL, 0)
    return _parse(data.rpartition(b"\n")[0], base)


def settled(manifest: Mapping[str, Any], lines: Iterable[Line], gone: Collection[str] = ()) -> dict[str, Any]:
    """The manifest with what its journal says, less what is gone.

    Episodes that it had keep their split, and tasks their number: what a run was trained on stays what it was. What is
    new takes its own, but episodes with the same video are in the same split, unless there is no other video.
    """
    episodes, skipped = dict(manifest["episodes"]), dict(manifest.get("skipped", {}))
    before: Mapping[str, Any] = manifest.get(HEIRLOOMS, {}) | episodes
    lines = list(lines)
    gone = set(gone) - {line["name"] for line in lines}
    envs: dict[str, str] = {}
    for line in lines:
        name = line["name"]
        if "reason" in line:
            skipped[name] = line["reason"]
            episodes.pop(name, None)
        else:
            skipped.pop(name, None)
            episodes[name] = dict(line["entry"])
            if "env" in line:
                envs[name] = line["env"]
    episodes = {name: episodes[name] for name in sorted(episodes) if name not in gone}
    tasks = list(manifest.get("tasks", []))
    tasks += sorted({env for name, env in envs.items() if name in episodes and name not in before} - set(tasks))
    for name in episodes.keys() & envs.keys():
        episodes[name]["task"] = before[name].get("task", 0) if name in before else tasks.index(envs[name])
    natural = {name: entry["split"] for name, entry in episodes.items()}
    videos = same_videos(episodes)
    for name, split in divide(natural, videos, _splits_before(episodes, before)).items():
        if episodes[name]["split"] != split:
            episodes[name] = {**episodes[name], "split": split}
    skipped = {name: skipped[name] for name in sorted(skipped) if name not in gone}
    return {**manifest, "tasks": tasks, "episodes": episodes, "skipped": skipped}


def _splits_before(episodes: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, str]:
    """The splits that episodes had; one that shows now what only another showed has that one's, for it was moved."""
    sides: dict[str, set[str]] = {}
    for entry in before.values():
        for mark in marks(entry):
            sides.setdefault(mark, set()).update({entry["split"]} if "split" in entry else ())
    splits = {}
    for name, entry in before.items():
        if "split" not in entry:
            continue
        found = episodes.get(name, entry)
        moved = set[str]().union(*(sides.get(mark, set()) for mark in marks(found) - marks(entry)))
        splits[name] = min(moved) if len(moved) == 1 and not marks(found) & marks(entry) else entry["split"]
    return splits


def _tail(path: Path, start: int) -> bytes:
    try:
        with path.open("rb") as file:
            file.seek(start)
            return file.read()
    except FileNotFoundError:
        return b""


def _parse(data: bytes, base: str) -> tuple[list[Line], list[int]]:
    found: list[Line] = []
    damaged = []
    for number, text in enumerate(data.split(b"\n") if data else [], 1):
        try:
            content = json.loads(text)
            is_whole = is_sound(content) and not line_fault(content)
            is_ours = content["base"] == base
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            is_whole = False
        if not is_whole:
            damaged.append(number)
        elif is_ours:
            found.append({name: value for name, value in content.items() if name not in ("base", "sha256")})
    return found, damaged
