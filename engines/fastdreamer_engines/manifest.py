"""What an installed engine says of itself, and the folder it lies in: private, complete, and made for exactly this.

An engine is executable code: it is never fetched, and never loaded unless its manifest matches what is wanted and
every byte of its files matches the manifest.
"""

from __future__ import annotations

import grp
import hashlib
import json
import os
import pwd
import shlex
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastdreamer_engines.spec import EngineError

FORMAT = 1
MANIFEST = "manifest.json"


def manifest_bytes(folder: Path, body: Mapping[str, Any]) -> bytes:
    """A manifest over all files in `folder`, with its own checksum in the first field."""
    files = {
        path.name: {"sha256": sha256(path), "bytes": path.stat().st_size}
        for path in sorted(folder.iterdir())
        if path.name != MANIFEST and not path.name.startswith(".")
    }
    content = {"format": FORMAT, **body, "files": files}
    return (json.dumps({"sha256": _digest(content), "engine": content}, indent=1) + "\n").encode()


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of an installed engine.

    Raises:
        EngineError: if there is none, it cannot be read, or a byte of it changed.
    """
    path = folder / MANIFEST
    try:
        parsed = json.loads(path.read_text(encoding="utf-8"))
        content = parsed["engine"]
        is_sound = parsed["sha256"] == _digest(content) and content["format"] == FORMAT
    except OSError as error:
        raise EngineError(f"engine {folder} has no readable manifest ({error.strerror})") from error
    except (ValueError, KeyError, TypeError) as error:
        raise EngineError(f"the manifest of engine {folder} is damaged") from error
    if not is_sound:
        raise EngineError(f"the manifest of engine {folder} is damaged, or of another version")
    return dict(content)


def check_key(folder: Path, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Refuse an engine that was made for, by or from something else.

    Raises:
        EngineError: naming what differs.
    """
    names = [name for name in {**wanted, **found} if found.get(name) != wanted.get(name)]
    if names:
        shown = ", ".join(f"{name} {_short(found.get(name))} instead of {_short(wanted.get(name))}" for name in names)
        raise EngineError(f"engine {folder} was built with {shown}")


def check_files(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Compare every file with its SHA-256, and refuse files the manifest does not know.

    Raises:
        EngineError: naming the file.
    """
    there = {path.name for path in folder.iterdir() if not path.name.startswith(".")} - {MANIFEST}
    for name in sorted(there ^ set(manifest["files"])):
        raise EngineError(f"engine {folder} {'has the unknown file' if name in there else 'lacks the file'} {name}")
    for name, entry in manifest["files"].items():
        try:
            found = sha256(folder / name)
        except OSError as error:
            raise EngineError(f"{folder / name} cannot be read: {error.strerror}") from error
        if found != entry["sha256"]:
            raise EngineError(f"{folder / name} is damaged: its SHA-256 is not the manifest's")


def check_private(folder: Path) -> None:
    """Refuse a folder that others may write to, or put another in the place of: code of theirs would run.

    Raises:
        EngineError: if so; the message says the way out.
    """
    try:
        status = folder.stat()
        os.listdir(folder)
    except OSError as error:
        way = "let this account read it" if isinstance(error, PermissionError) else "name another: engines.directory"
        raise EngineError(f"engine folder {folder} cannot be read: {error.strerror}; {way}") from error
    if status.st_uid != os.getuid():
        raise EngineError(f"engine folder {folder} belongs to another user; name one of your own: engines.directory")
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        close = shlex.join(["chmod", "700", str(folder)])
        raise EngineError(f"engine folder {folder} can be written by others; close it: {close}")
    # As it is named, and where its links lead: whoever may write to a folder above may rename what lies in it.
    for above in dict.fromkeys([*Path(os.path.abspath(folder)).parents, *folder.resolve().parents]):
        if _is_others(above.stat()):
            raise EngineError(
                f"engine folder {folder} lies below {above}, in which others may put another in its place; name one "
                "below folders of your own: engines.directory"
            )


def _is_others(status: os.stat_result) -> bool:
    """Whether somebody besides this user and the owner of the machine may rename what lies in such a folder."""
    if status.st_uid not in (0, os.getuid(), os.stat("/").st_uid):
        return True
    if status.st_mode & stat.S_ISVTX:  # as /tmp: only owners rename
        return False
    is_grouped = status.st_mode & stat.S_IWGRP and not _is_own_group(status.st_gid)
    return bool(status.st_mode & stat.S_IWOTH or is_grouped)


def _is_own_group(number: int) -> bool:
    """Whether a group holds this user alone, as many systems give every user one, or is root's."""
    try:
        group, user = grp.getgrgid(number), pwd.getpwuid(os.getuid())
    except KeyError:
        return False
    return number == 0 or (group.gr_name == user.pw_name and set(group.gr_mem) <= {user.pw_name})


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
