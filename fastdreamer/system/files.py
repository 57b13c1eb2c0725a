"""Files and folders that appear whole or not at all: temporary name, fsync, rename, fsync of the folder.

And folders as people write them: `~` is a home directory, wherever it stands.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import os
import re
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from fastdreamer.errors import UserError
from fastdreamer.system.leftovers import hidden, identity, remove, temporary_file, temporary_folder

_REASONS = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "the disk is full; free space or choose another folder"),
    errno.EFBIG: "it would be larger than files may be here; raise that limit (of ulimit), or choose another folder",
    errno.EIO: "the disk fails (Input/output error); choose another one",
    errno.ENAMETOOLONG: "its name is too long; choose a shorter one",
    errno.EROFS: "the disk is mounted read-only; choose another folder",
    errno.ELOOP: "its links lead in a circle; choose another folder",
    **dict.fromkeys((errno.ENOTDIR, errno.EEXIST), "a file is in the way; choose another folder"),
    **dict.fromkeys((errno.EISDIR, errno.ENOTEMPTY), "a folder is in the way; choose another one"),
    **dict.fromkeys((errno.EACCES, errno.EPERM), "choose another folder or change its permissions"),
}
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # constants of Linux


class AlreadyThere(UserError):
    """A folder that may not be replaced exists."""


def write_atomic(path: Path, data: bytes, only_new: bool = False) -> None:
    """Replace the content of `path`: a reader, or a kill at any moment, sees the old file or the new one.

    A link is replaced, never followed. With `only_new` what is there stays, however lately another process made it.

    Raises:
        UserError: if it cannot be written (disk full, no permission); the old file stays.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = temporary_file(path)
        with os.fdopen(handle, "wb") as file:
            try:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
                if not (only_new and _linked(temporary, path)):
                    os.replace(temporary, path)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise
        sync(path.parent)
    except OSError as error:
        raise unwritable(path, error) from error


@contextmanager
def atomic_directory(final: Path, replace: bool = False) -> Iterator[Path]:
    """A temporary folder beside `final` to fill; it is synced and renamed to `final` when the block ends well.

    Leftovers of killed processes are removed on entry. With `replace` an existing `final` gives way at the end, in one
    step where the disk can. Where another process wrote `final` meanwhile, its folder is kept and this one dropped.

    Raises:
        AlreadyThere: if `final` exists on entry and `replace` is off.
        UserError: if the disk refuses.
    """
    with disk_errors(final), temporary_folder(final) as temporary:
        before = identity(final)
        if before is not None and not (replace and final.is_dir()):
            raise AlreadyThere(f"{final} already exists: choose another folder")
        yield temporary
        for folder, _, names in os.walk(temporary):
            for name in names:
                sync(Path(folder) / name)
            sync(Path(folder))
        _install(temporary, final, before)
        sync(final.parent)


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """What the disk refuses while `path` is written, as the user's to mend (see `unwritable`)."""
    try:
        yield
    except OSError as error:
        raise unwritable(path, error) from error
    except Exception as error:
        number = re.search(r"\(os error (\d+)\)", str(error))  # safetensors wraps the system's error in its own class
        if number is None or int(number[1]) not in _REASONS:
            raise
        raise unwritable(path, OSError(int(number[1]), os.strerror(int(number[1])))) from error


@contextmanager
def scratch_directory(parent: Path) -> Iterator[Path]:
    """A folder in `parent` that goes away with the block; what killed processes left there goes away on entry.

    Raises:
        UserError: if the disk refuses.
    """
    try:
        with temporary_folder(parent / "scratch") as scratch:
            yield scratch
    except OSError as error:
        raise unwritable(parent, error) from error


def check_replaceable(*paths: Path) -> None:
    """Refuses files that `write_atomic` could not write, before the work whose result they hold.

    Raises:
        UserError: naming the first of them.
    """
    for path in paths:
        folder = next(place for place in path.parents if place.exists())
        refused = errno.EISDIR if path.is_dir() and not path.is_symlink() else 0
        refused = refused or (0 if folder.is_dir() else errno.ENOTDIR)
        refused = refused or (0 if os.access(folder, os.W_OK | os.X_OK) else errno.EACCES)
        if refused:
            raise unwritable(path, OSError(refused, os.strerror(refused)))


def remove_directory(path: Path) -> None:
    """Remove a folder in one step; what a kill leaves of it has a hidden name (see `leftovers.sweep`)."""
    gone = hidden(path, f".tmp-{secrets.token_hex(8)}")
    with suppress(OSError):
        os.rename(path, gone)
        remove(gone)


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's content, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def unwritable(path: Path, error: OSError) -> Exception:
    """Disk trouble is the user's to mend; any other OSError is a bug and stays what it is."""
    way_out = _REASONS.get(error.errno or 0)
    if way_out is None:
        return error
    is_told = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO)
    return UserError(f"cannot write {path}: {way_out if is_told else f'{error.strerror}; {way_out}'}")


def _linked(temporary: Path, path: Path) -> bool:
    """Gives the file its name unless that is taken, which the disk decides; False where it has no links."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        pass
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK):
            raise
        return False
    temporary.unlink()
    return True


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _install(temporary: Path, final: Path, before: tuple[int, int] | None) -> None:
    """Puts the folder in its place, unless another process did so since `before`."""
    while True:
        now = identity(final)
        if now is not None and now != before:
            print(f"{final} was written by another process meanwhile: its folder is kept", file=sys.stderr, flush=True)
            return
        if now is not None and _exchange(temporary, final):
            return
        retired = hidden(final, f".old-{secrets.token_hex(8)}")
        if now is not None:
            os.rename(final, retired)
        try:
            os.rename(temporary, final)
        except OSError as error:
            if now is not None:
                with suppress(OSError):
                    os.rename(retired, final)
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise
        else:
            remove(retired)
            return


def _exchange(one: Path, other: Path) -> bool:
    """Swaps two folders in one step; False where system or disk cannot."""
    try:
        rename = ctypes.CDLL(None).renameat2
    except (OSError, AttributeError):
        return False
    paths = os.fsencode(one), os.fsencode(other)
    return bool(rename(_AT_FDCWD, paths[0], _AT_FDCWD, paths[1], _RENAME_EXCHANGE) == 0)


FOLDERS = {"data": ("recordings", "store"), "tokenizer": ("weights",), "engines": ("directory",)}
"""The settings that name a folder, by their section."""
NO_FOLDERS = ("", "embedded", "random")
Settings = TypeVar("Settings", bound=Any)


def expanded(text: str | Path) -> Path:
    """A path with its `~` or `~user` put in.

    Raises:
        UserError: if there is no such user, or the account has no home directory.
    """
    try:
        return Path(text).expanduser()
    except (RuntimeError, KeyError) as error:
        user = str(text).partition("/")[0]
        who = "this account has no home directory" if user == "~" else f"there is no user {user[1:]!r}"
        raise UserError(f"{text} cannot be found: {who}; write the whole path, from / on") from error


def whole(text: str) -> str:
    """The whole path of a folder that a setting names; what names none stays as it is.

    Raises:
        UserError: if a `~` names nobody, or this account has no home directory.
    """
    return text if text in NO_FOLDERS else str(expanded(text).absolute())


def find_beside(tree: dict[str, Any], beside: Path) -> None:
    """Folders that lie beside the file are meant, wherever the command runs."""
    for section, names in FOLDERS.items():
        for name in names if isinstance(tree.get(section), dict) else ():
            text = tree[section].get(name)
            if isinstance(text, str) and text not in NO_FOLDERS:
                tree[section][name] = _near(text, beside, f"{section}.{name}")


def anchored(config: Settings, weights: bool = False) -> Settings:
    """The same with whole paths, which mean the same from every folder.

    The weights are left as they are written unless they are asked for: engines are found by that name.

    Raises:
        UserError: if a `~` names nobody, or this account has no home directory.
    """
    from dataclasses import replace

    sections = {}
    for section, names in FOLDERS.items():
        settings = getattr(config, section)
        kept = {name: whole(getattr(settings, name)) for name in names if weights or name != "weights"}
        sections[section] = replace(settings, **kept)
    return replace(config, **sections)


def _near(text: str, beside: Path, setting: str) -> str:
    """A folder that a file names: the one beside the file where it is there, else as it is written.

    Raises:
        UserError: if there is another one of that name in the current folder.
    """
    path = expanded(text)
    own = beside.absolute() / path
    if path.is_absolute() or not own.exists() or (path.exists() and path.samefile(own)):
        return text
    if path.exists():
        raise UserError(
            f"{setting} is {text}, which is both {own} and {path.absolute()}: write the whole path of the one you mean"
        )
    return str(own)
