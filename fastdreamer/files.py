"""Files that appear whole or not at all: temporary name, fsync, rename, fsync of the folder."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from fastdreamer.errors import UserError

_DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO}


def write_atomic(path: Path, data: bytes) -> None:
    """Replace the content of `path`: a reader, or a kill at any moment, sees the old file or the new one.

    Raises:
        UserError: if it cannot be written (disk full, no permission); the old file stays.
    """
    temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync(path.parent)
    except OSError as error:
        raise _unwritable(path, error) from error
    finally:
        with suppress(OSError):  # renamed away, or never made
            temporary.unlink()


@contextmanager
def atomic_directory(final: Path, replace: bool = False) -> Iterator[Path]:
    """A temporary folder beside `final` to fill; it is synced and renamed to `final` when the block ends well.

    Leftovers of killed processes are removed on entry. With `replace` an existing `final` gives way at the end.

    Raises:
        UserError: if `final` exists and `replace` is off, or if the disk refuses.
    """
    if not replace and final.exists():
        raise UserError(f"{final} already exists; delete it or choose another folder")
    temporary = final.with_name(f".{final.name}.tmp-{os.getpid()}")
    retired = final.with_name(f".{final.name}.old-{os.getpid()}")
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(final)
        temporary.mkdir()
        yield temporary
        for folder, _, names in os.walk(temporary):
            for name in names:
                _sync(Path(folder) / name)
            _sync(Path(folder))
        if replace and final.exists():
            os.rename(final, retired)
        os.rename(temporary, final)
        _sync(final.parent)
    except OSError as error:
        raise _unwritable(final, error) from error
    except Exception as error:
        if "No space left on device" in str(error):  # safetensors wraps the system's error in its own class
            raise UserError(f"cannot write {final}: the disk is full; free space or choose another folder") from error
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(retired, ignore_errors=True)


@contextmanager
def scratch_directory(parent: Path) -> Iterator[Path]:
    """A folder in `parent` that goes away with the block; what killed processes left there goes away on entry.

    Raises:
        UserError: if the disk refuses.
    """
    scratch = parent / f".scratch.tmp-{os.getpid()}"
    try:
        _remove_leftovers(parent / "scratch")
        scratch.mkdir(parents=True, exist_ok=True)
        yield scratch
    except OSError as error:
        raise _unwritable(parent, error) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's content, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _remove_leftovers(final: Path) -> None:
    """Folders of writers that were killed; a retired one whose successor never came is put back first."""
    for path in [*final.parent.glob(f".{final.name}.old-*"), *final.parent.glob(f".{final.name}.tmp-*")]:
        if _is_alive(path.name.rpartition("-")[2]):
            continue
        if ".old-" in path.name and not final.exists():
            os.rename(path, final)
        else:
            shutil.rmtree(path, ignore_errors=True)


def _is_alive(process: str) -> bool:
    if not process.isdigit():
        return False
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _unwritable(path: Path, error: OSError) -> Exception:
    """Disk trouble is the user's to mend; any other OSError inside the block is a bug and stays what it is."""
    if isinstance(error, FileNotFoundError) or error.errno not in _DISK_ERRORS | {errno.ENOTDIR, errno.EEXIST}:
        return error
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return UserError(f"cannot write {path}: the disk is full; free space or choose another folder")
    return UserError(f"cannot write {path}: {error.strerror}; choose another folder or change its permissions")
