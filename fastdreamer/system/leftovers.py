"""Unfinished files and folders beside the place they are for, and what killed writers leave of them.

A writer holds a lock of the system on what it has not finished yet. The system gives it back however the writer ends,
so what nobody holds was left by a killed one and goes away. Process numbers tell nothing: containers use them again,
and other machines on a shared disk have the same ones.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_FLAGS = os.O_CLOEXEC | os.O_NOFOLLOW
_LEFT = re.compile(r"\..+\.tmp(-\w+)?")
_LONGEST_NAME, _ADDED = 255, 22  # bytes: what common file systems take, and what `hidden` adds at most


def temporary_file(path: Path) -> tuple[int, Path]:
    """A new file beside `path`, locked: under the same name every time, so that leftovers do not pile up.

    Where a living writer has that name, or a disk without locks keeps what a killed one left, it gets one of its own.
    """
    tries = 0
    while True:
        temporary = hidden(path, ".tmp" if tries < 3 else f".tmp-{secrets.token_hex(8)}")
        tries += 1
        _clear(temporary)
        with suppress(FileExistsError):
            handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _FLAGS, 0o666)
            lock(handle, fcntl.LOCK_EX)  # who took it for a leftover before it was held has it, until it is removed
            if is_at(handle, temporary):
                return handle, temporary
            os.close(handle)


@contextmanager
def temporary_folder(final: Path) -> Iterator[Path]:
    """A new folder beside `final`, held while the block runs; what is left of it then goes away."""
    final.parent.mkdir(parents=True, exist_ok=True)
    _recover(final)
    while True:
        temporary = hidden(final, f".tmp-{secrets.token_hex(8)}")
        temporary.mkdir()
        with suppress(FileNotFoundError):  # another writer took it for a leftover before it was held
            handle = os.open(temporary, os.O_RDONLY | os.O_DIRECTORY | _FLAGS)
            lock(handle, fcntl.LOCK_SH)
            if is_at(handle, temporary):
                break
            os.close(handle)
    try:
        yield temporary
    finally:
        remove(temporary)
        os.close(handle)


def sweep(folder: Path) -> None:
    """Takes away what killed writers left in a folder of ours."""
    if folder.is_dir():
        for path in sorted(folder.iterdir()):
            if _LEFT.fullmatch(path.name):
                _clear(path)


def hidden(path: Path, suffix: str) -> Path:
    """A name beside `path` that nobody looks for, also where the name is as long as names may be."""
    name = path.name
    if len(os.fsencode(name)) > _LONGEST_NAME - _ADDED:
        name = hashlib.sha256(os.fsencode(name)).hexdigest()[:32]
    return path.with_name(f".{name}{suffix}")


def _recover(final: Path) -> None:
    """Puts back a folder that was retired for a successor which never came, and clears what writers left."""
    beside = list(final.parent.iterdir())
    retired = [path for path in beside if path.name.startswith(hidden(final, ".old-").name)]
    with suppress(OSError):  # another writer may be doing the same
        for path in sorted(retired, key=lambda path: path.lstat().st_ctime_ns, reverse=True):
            if identity(final) is None and path.is_dir():
                os.rename(path, final)
            else:
                remove(path)
    for path in beside:
        if path.name.startswith(hidden(final, ".tmp-").name) and not _is_older_versions(path):
            _clear(path)


def _is_older_versions(path: Path) -> bool:
    """Whether a living process of a version before the locks may be at work here: its number ends the name."""
    number = path.name.rpartition("-")[2]
    if not number.isdigit() or len(number) > 10 or int(number) == os.getpid():
        return False
    try:
        os.kill(int(number), 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def _clear(path: Path) -> None:
    """Removes what a killed writer left; what somebody may be working on stays, and so does what cannot be told."""
    try:
        handle = os.open(path, _FLAGS | (os.O_RDONLY if path.is_dir() else os.O_RDWR | os.O_NONBLOCK))
    except OSError:
        if path.is_symlink():
            remove(path)
        return
    try:
        if lock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB) and is_at(handle, path):
            remove(path)
    finally:
        os.close(handle)


def remove(path: Path) -> None:
    """A file, a link (never what it leads to), or a folder with all that is in it; what cannot go stays."""
    if path.is_symlink() or not path.is_dir():
        with suppress(OSError):
            path.unlink()
    else:
        shutil.rmtree(path, ignore_errors=True)


def identity(path: Path) -> tuple[int, int] | None:
    """Identity of a file or folder, whatever it is called; None where there is none."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


def lock(handle: int, kind: int) -> bool:
    """Whether the system gave its lock: another may have it, and there are disks without any."""
    try:
        fcntl.flock(handle, kind)
    except OSError:
        return False
    return True


def is_at(handle: int, path: Path) -> bool:
    """Whether an open file is still the one at `path`."""
    status = os.fstat(handle)
    return identity(path) == (status.st_dev, status.st_ino)
