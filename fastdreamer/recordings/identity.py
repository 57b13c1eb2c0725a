"""Identity of recordings: the one behind each episode of a store, and those that are the same one.

Names depend on what is found together, so they cannot say it: adding a folder changes the shortest name that no other
recording has. An episode stays that of its path, or, where that is gone, that of the files with the same content.
"""

from __future__ import annotations

import glob
import hashlib
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from fastdreamer.errors import UserError
from fastdreamer.recordings.bounds import MOST_LABEL_BYTES, MOST_VIDEO_BYTES, check_bytes
from fastdreamer.recordings.recording import Recording
from fastdreamer.system.cores import count_cores
from fastdreamer.system.files import sha256_file

LONGEST_NUMBERED = 50  # characters, which are at most 200 bytes: a store's file of that name has a longer one
T = TypeVar("T")
KINDS = (".mp4", ".npz", ".json", ".jsonl")  # files that a recording can have


class Content(NamedTuple):
    """SHA-256 of a recording: of its files with their names, and of its video."""

    source: str
    video: str


def content_of(recording: Recording, is_old: bool = False) -> Content:
    """Hash what a recording holds.

    Args:
        recording: a recording of any format.
        is_old: hash as for entries without a `path`: files named `<stem>.<more>.json` belonged to `<stem>` too.

    Raises:
        DamagedRecording: if a file cannot be read.
    """
    with recording.reading():
        hashes = {file: sha256_file(file) for file in files_of(recording, is_old)}
    source = _hash(f"{p.name}:{found}" for p, found in hashes.items())
    return Content(source, hashes.get(video_of(recording), ""))


def video_of(recording: Recording) -> Path:
    """The file with the frames; of a MineRL folder the usual one, or the first."""
    path = recording.path
    if not path.is_dir():
        return path
    usual = path / "recording.mp4"
    return usual if usual.is_file() else min(path.glob("*.mp4"), default=usual)


def place(recording: Recording, root: Path) -> str:
    """Path of a recording, seen from the root, as a store notes it."""
    return os.path.relpath(recording.path, root)


def settle(found: Sequence[Recording], entries: Mapping[str, Any], root: Path) -> list[Recording]:
    """The recordings under the names that the store knows them by; new ones under names that are free.

    Args:
        found: recordings of `find_recordings`, with the names it gave them.
        entries: entries of the store's manifest.
        root: the recordings' folder.
    """
    settled = _by_place(found, entries, root)
    rest = [recording for recording in found if recording not in settled]
    known = set(settled.values())
    lost = {name: entry for name, entry in entries.items() if name not in known}
    if lost and rest:  # moved, or renamed
        by_source = {entry["source_sha256"]: name for name, entry in lost.items()}
        by_video = {entry["video_sha256"]: name for name, entry in lost.items() if entry.get("video_sha256")}
        for recording, content in zip(rest, contents(rest), strict=True):
            name = content and (by_source.get(content.source) or by_video.get(content.video))
            if name and name not in known:
                settled[recording] = name
                known.add(name)
    for recording in rest:
        if recording not in settled:
            settled[recording] = _free(recording.name, known)
            known.add(settled[recording])
    return [replace(recording, name=settled[recording]) for recording in found]


def behind(found: Sequence[Recording], entries: Mapping[str, Any], root: Path) -> dict[str, Recording]:
    """The recordings of a store's episodes by the episodes' names, where they lie where they lay or are named so still.

    What they hold is another question: see `check_unchanged`.
    """
    settled = _by_place(found, entries, root)
    others = {r: r.name for r in found if r not in settled and r.name in entries.keys() - settled.values()}
    return {name: replace(recording, name=name) for recording, name in (settled | others).items()}


def check_unchanged(recording: Recording, entry: Mapping[str, Any]) -> None:
    """Refuse a recording that is no longer what was encoded.

    Raises:
        DamagedRecording: if it is not, or cannot be read.
    """
    if content_of(recording, is_old="path" not in entry).source != entry["source_sha256"]:
        raise recording.damaged("its files have changed since it was encoded")


def without_links(
    found: Sequence[Recording], root: Path, known: Iterable[str] = ()
) -> tuple[list[Recording], dict[str, str]]:
    """The recordings, each once, and the names of links to others with the name of what they lead to.

    A link would put one clip into both splits. What the store knows is kept before what it does not, and a file before
    a link to it. Of a video with other labels beside it both stay. No video is read: those that are one file are alike.

    Args:
        found: recordings under their names in the store, where there is one.
        root: the recordings' folder.
        known: names that the store has.
    """
    alike: defaultdict[object, list[Recording]] = defaultdict(list)
    for recording in found:
        alike[_file_of(recording)].append(recording)
    groups = {file: group for file, group in alike.items() if file is not None and len(group) > 1}
    suspects = [(file, recording) for file, group in groups.items() for recording in group]
    same: defaultdict[object, list[Recording]] = defaultdict(list)
    beside = _by_threads(_beside, [recording for _, recording in suspects])
    for (file, recording), labels in zip(suspects, beside, strict=True):
        if labels is not None:
            same[file, labels].append(recording)
    known = set(known)
    links: dict[str, str] = {}
    for group in same.values():
        first, *others = sorted(group, key=lambda r: (r.name not in known, _is_link(r, root), r.path))
        links |= {other.name: first.name for other in others}
    return [recording for recording in found if recording.name not in links], links


def contents(recordings: Sequence[Recording]) -> list[Content | None]:
    """Content of each, read by several threads; None where it cannot be read, which is said when it is encoded."""
    return _by_threads(content_of, recordings)


def _by_threads(read: Callable[[Recording], T], recordings: Sequence[Recording]) -> list[T | None]:
    """What is read of each; None where it cannot be."""

    def read_or_none(recording: Recording) -> T | None:
        try:
            return read(recording)
        except UserError:
            return None

    if not recordings:
        return []
    with ThreadPoolExecutor(count_cores()) as pool:
        return list(pool.map(read_or_none, recordings))


def files_of(recording: Recording, is_old: bool = False) -> list[Path]:
    """All files of a recording, none of them larger than such a file can be; `is_old` as for `content_of`."""
    path = recording.path
    if path.is_dir():
        near = [p for p in path.iterdir() if p.suffix in (*KINDS, path.suffix)]
    elif is_old:
        near = [p for p in path.parent.glob(f"{glob.escape(path.stem)}.*") if p.suffix in (*KINDS, path.suffix)]
    else:
        near = [path.with_suffix(kind) for kind in {*KINDS, path.suffix}]
    files = [file for file in sorted(near) if file.is_file()]
    for file in files:
        most = MOST_LABEL_BYTES if file.suffix in KINDS[1:] else MOST_VIDEO_BYTES
        check_bytes(file, file.stat().st_size, most)
    return files


def _role(recording: Recording, file: Path) -> str:
    """What tells a recording's files apart, whatever the recording is called."""
    return file.name if recording.path.is_dir() else file.suffix


def _beside(recording: Recording) -> frozenset[tuple[str, str]]:
    """The roles of a recording's files with their hashes; of the video the role alone: it may be a day long."""
    video = video_of(recording)
    with recording.reading():
        files = files_of(recording)
        return frozenset((_role(recording, p), "" if p == video else sha256_file(p)) for p in files)


def _by_place(found: Sequence[Recording], entries: Mapping[str, Any], root: Path) -> dict[Recording, str]:
    """Names in the store by path; entries from before paths were noted by name."""
    places = {entry["path"]: name for name, entry in entries.items() if "path" in entry}
    settled = {r: places[where] for r in found if (where := place(r, root)) in places}
    known = set(settled.values())
    named = {r: r.name for r in found if r not in settled and r.name in entries and "path" not in entries[r.name]}
    return settled | {recording: name for recording, name in named.items() if name not in known}


def _free(name: str, known: set[str]) -> str:
    """The name, or a numbered one that is no longer."""
    number, free = 1, name
    while free in known:
        number += 1
        free = f"{name[:LONGEST_NUMBERED]}~{number}"
    return free


def _file_of(recording: Recording) -> tuple[int, int] | None:
    """Identity of the file that its video is, whatever leads to it."""
    try:
        about = video_of(recording).stat()
    except OSError:
        return None
    return about.st_dev, about.st_ino


def _is_link(recording: Recording, root: Path) -> bool:
    """Whether it is reached through a link below the root."""
    video = video_of(recording)
    return os.path.realpath(video) != os.path.join(os.path.realpath(root), os.path.relpath(video, root))


def _hash(parts: Iterable[str]) -> str:
    return hashlib.sha256("|".join(parts).encode("utf-8", "surrogateescape")).hexdigest()
