"""Recordings under a folder, of every format, mixed as they may be; and what looks like one and is none.

    <EnvName>/v3_<player>_<mob>-<n>_<start>-<end>/{recording.mp4, rendered.npz}    MineRL, and ours
    <folder>/<name>.mp4 and <folder>/<name>.jsonl                                  VPT
    <folder>/<name>.mp4                                                            a video without actions

A video becomes unlabelled only where nothing says that it had labels: beside MineRL's arrays, in a folder named like
MineRL's, or in one where files beside it hold VPT's lines, it is incomplete. MineRL's folders count with any .mp4, any
.npz and a version in their path, as for MineRL's own loader.
"""

from __future__ import annotations

import os
import re
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path

from fastdreamer.errors import UserError
from fastdreamer.recordings import plain, vpt
from fastdreamer.recordings.printable import file_name, printable
from fastdreamer.recordings.recording import Recording
from fastdreamer.system.advice import command
from fastdreamer.system.json_files import regular_bytes

LONGEST_NAME = 232  # bytes: the store's file of that name, and what it is called while it is written, are longer
BLACKLIST = ("tempting_capers_shapeshifter-14",)  # its video does not belong to its actions, say the authors
VERSIONS = ("3", "4")
_SHOWN = 80  # characters of a version that is none of these: the file may be anything
_VERSION_PREFIX = re.compile(r"v[0-9]+_")
_FOLDER = re.compile(r"v[0-9]+_(?P<stream>.+-[0-9]+)_[0-9]+-[0-9]+")
LAYOUTS = (
    "<EnvName>/v3_<player>_<mob>-<n>_<start>-<end>/ with recording.mp4 and rendered.npz (MineRL), "
    "<folder>/<name>.mp4 with <name>.jsonl (VPT), or <folder>/<name>.mp4 alone (no actions)"
)


def find_recordings(root: Path) -> list[Recording]:
    """All recordings under `root`, sorted by path; hidden files and folders are left out.

    Raises:
        UserError: if the folder is missing, holds no recording, or says in VERSION that it is of another format.
    """
    root = Path(root)
    if not root.is_dir():
        above = next(path for path in (root, *root.parents) if os.path.lexists(path))
        if not above.is_dir():
            raise UserError(f"there is no folder {root} ({above} is no folder): name one of recordings")
        record = command("record", env="crafter", out=root)
        raise UserError(f"there is no folder {root}; name one of recordings, or record crafter into it with: {record}")
    found, incomplete = _survey(root)
    if any(kind == "minerl" for _, kind in found):
        _check_version(root)
    if not found:
        first = f"; {len(incomplete)} incomplete, the first {': '.join(incomplete[0])}" if incomplete else ""
        raise UserError(f"{root} holds no recording: expected {LAYOUTS}{first}")
    return _named(root, sorted(found))


def find_incomplete(root: Path) -> list[tuple[str, str]]:
    """Name and reason of what looks like a recording and is none, and of folders that cannot be listed."""
    return _survey(Path(root))[1]


def _survey(root: Path) -> tuple[list[tuple[Path, str]], list[tuple[str, str]]]:
    """What was found, with its format, and what is incomplete, with the reason."""
    found: list[tuple[Path, str]] = []
    incomplete: list[tuple[str, str]] = []
    for path, names in _walk(root, incomplete):
        if _is_minerls(path, names):
            if reason := _refusal(path, names):
                incomplete.append((path.name, reason))
            else:
                found.append((path, "minerl"))
            continue
        videos = {name for name in names if name.lower().endswith(plain.ENDINGS)}
        lines = {Path(name).stem for name in names if videos and vpt.claims(path / name)}
        for name in videos:
            stem = Path(name).stem
            if lines and stem not in lines:
                reason = f"there is no {stem}{vpt.ENDING} in {path}, where other videos have their actions"
                incomplete.append((stem, reason))
            else:
                found.append((path / name, "vpt" if lines else "video"))
        for stem in lines - {Path(name).stem for name in videos}:
            incomplete.append((stem, f"there is no video for {stem}{vpt.ENDING} in {path}"))
    there = {path.stem for path, _ in found} | {name for name, _ in incomplete}
    incomplete += [(name, reason) for name, reason in vpt.read_indices(root) if name not in there]
    return found, sorted((printable(name), printable(reason)) for name, reason in incomplete)


def _walk(root: Path, incomplete: list[tuple[str, str]]) -> Iterator[tuple[Path, list[str]]]:
    """Folders under `root`, itself included, with their files; hidden ones are half-written, or another system's.

    Each is visited once, where it lies rather than by a link to it: links may lead round in circles. Those that cannot
    be listed become `incomplete`.
    """
    here, linked, seen = [root], list[Path](), set[str]()
    while here or linked:
        path = here.pop() if here else linked.pop()
        try:
            if (real := os.path.realpath(path)) in seen:
                continue
            seen.add(real)
            with os.scandir(path) as entries:
                shown = sorted((e for e in entries if not e.name.startswith(".")), key=lambda e: e.name, reverse=True)
        except OSError as error:
            incomplete.append((path.name, f"the folder {path} cannot be listed ({error.strerror})"))
            continue
        folders = [entry for entry in shown if _is(entry, os.DirEntry.is_dir)]
        here += [path / entry.name for entry in folders if not entry.is_symlink()]
        linked += [path / entry.name for entry in folders if entry.is_symlink()]
        # A link to nothing is set aside when it is read; pipes and devices would be read for ever.
        lost = [entry for entry in shown if entry.is_symlink() and not os.path.exists(entry.path)]
        yield path, [entry.name for entry in shown[::-1] if _is(entry, os.DirEntry.is_file) or entry in lost]


def _is(entry: os.DirEntry[str], kind: Callable[[os.DirEntry[str]], bool]) -> bool:
    """Whether it is of that kind; what cannot be asked is not."""
    try:
        return kind(entry)
    except OSError:
        return False


def _named(root: Path, found: list[tuple[Path, str]]) -> list[Recording]:
    """Each with the shortest name that no other has: its own, with its folder's, or with its whole path."""
    envs = [file_name(Path(os.path.abspath(path)).parent.name) for path, _ in found]
    stems = [path.name if kind == "minerl" else path.stem for path, kind in found]
    choices = [
        tuple(map(_storable, (stem, f"{env}.{stem}", ".".join(path.relative_to(root).parts))))
        for (path, _), env, stem in zip(found, envs, stems, strict=True)
    ]
    times = Counter(name for names in choices for name in set(names))
    recordings = [
        Recording(path, next((name for name in names if times[name] == 1), names[-1]), env, kind)
        for (path, kind), env, names in zip(found, envs, choices, strict=True)
    ]
    first: dict[str, Recording] = {}
    for recording in recordings:
        other = first.setdefault(recording.name, recording)
        if other is not recording:
            raise UserError(f"{other.path} and {recording.path} would both be named {recording.name}; rename one")
    return recordings


def _storable(name: str) -> str:
    """The name with escapes for what cannot be printed, and shortened where no file could have it."""
    name = file_name(name)
    if len(name.encode()) <= LONGEST_NAME:
        return name
    short = name.encode()[: LONGEST_NAME // 2].decode(errors="ignore")
    return f"{short}~{sha256(name.encode()).hexdigest()[:16]}"


def _check_version(root: Path) -> None:
    """Raises UserError if `root` says in VERSION that its recordings are of another format."""
    file = root / "VERSION"
    try:
        version = regular_bytes(file).decode(errors="replace").strip() if file.is_file() else VERSIONS[0]
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: {error}") from error
    if version not in VERSIONS:
        raise UserError(f"{file} says {version[:_SHOWN]!r}; readable versions are {' and '.join(VERSIONS)}")


def _is_minerls(path: Path, names: list[str]) -> bool:
    """Whether a folder with these files is MineRL's, whole or not: by its name, or by what lies in it."""
    if _FOLDER.fullmatch(path.name):
        return True
    if _VERSION_PREFIX.match(path.name) and {"recording.mp4", "rendered.npz"} & set(names):
        return True
    return _has(names, ".mp4") and any(_holds_actions(path / name) for name in names if name.endswith(".npz"))


def _holds_actions(path: Path) -> bool:
    """Whether an npz has a recording's arrays; where it cannot be read, whether it is called as theirs are."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.startswith("action$") for name in archive.namelist())
    except Exception:  # one flipped bit makes zipfile raise any of a dozen kinds
        return path.name == "rendered.npz"


def _refusal(path: Path, names: list[str]) -> str:
    """Why a folder that MineRL claims does not count as a recording, or ""."""
    named = _FOLDER.fullmatch(path.name)
    if named and named["stream"] in BLACKLIST:
        return "black-listed by MineRL: its frames and actions do not belong together"
    missing = " and ".join(ending for ending in (".mp4", ".npz") if not _has(names, ending))
    if missing:
        return f"there is no {missing} file in {path}"
    if not _VERSION_PREFIX.search(os.path.abspath(path)):
        return f"there is no version such as v3_ in {path}; MineRL's folders are v3_<player>_<mob>-<n>_<start>-<end>"
    return ""


def _has(names: list[str], ending: str) -> bool:
    return any(name.endswith(ending) for name in names)
