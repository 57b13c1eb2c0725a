"""One process at a time in a run directory: a lock of the system for everything that writes there.

It is free again however its holder ends, so a kill leaves nothing that has to be cleared. Processes that may work
beside one another (several `encode` into one store) share it.
"""

from __future__ import annotations

import fcntl
import inspect
import json
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from fastdreamer.errors import Stopped, UserError
from fastdreamer.ranks.membership import current
from fastdreamer.ranks.torchrun import place
from fastdreamer.system.advice import again
from fastdreamer.system.files import unwritable
from fastdreamer.system.json_files import read_loosely
from fastdreamer.system.leftovers import is_at, sweep

LOCK = ".lock"
TRIES, PAUSE_S = 5, 0.05  # a holder that is just leaving is waited for

P = ParamSpec("P")
R = TypeVar("R")

_held: dict[Path, int] = {}  # this process's locks: what a command holds, the functions that it calls hold too


@contextmanager
def run_lock(run_dir: Path, shared: bool = False) -> Iterator[None]:
    """Holds a run directory, which is made if need be; the lock of a caller in this process serves too.

    What killed writers left in it goes away; so does the folder, if it was made here and nothing was written. Of ranks
    that train together the main one holds it for all.

    Raises:
        UserError: if another process holds it, or the disk refuses.
        Stopped: if the caller's was moved or removed.
    """
    if not (shared or current().is_main):
        yield
        return
    real = Path(os.path.realpath(run_dir))  # `resolve` raises where links lead in a circle
    if real in _held:
        if (now := place_of(run_dir)) != run_dir:
            raise Stopped(f"{run_dir} was moved to {now} meanwhile, and nothing was lost: start again there")
        yield
        return
    path, made = real / LOCK, [folder for folder in (real, *real.parents) if not folder.exists()]
    if os.path.lexists(path) and (path.is_symlink() or not path.is_file()):
        raise UserError(f"{path} is no file, and locks are taken on it: move it out of the run")
    try:
        real.mkdir(parents=True, exist_ok=True)
        handle = _take(path, shared)
        if handle is None:
            raise UserError(_busy(run_dir, read_loosely(path) or {}))
    except OSError as error:
        raise unwritable(run_dir, error) from error
    _held[real] = handle
    try:
        sweep(real)
        yield
    finally:
        _give_back(_held.pop(real), path)
        with suppress(OSError):
            for folder in made:
                folder.rmdir()


def place_of(run_dir: Path) -> Path:
    """Path of the run directory that this process holds, for somebody may have moved it; else the path as it is named.

    Raises:
        Stopped: if it was removed, or its lock file was and another process holds a new one.
    """
    real = run_dir.resolve()
    handle, path = _held.get(real), real / LOCK
    if handle is None or is_at(handle, path):
        return run_dir
    if now := _moved(handle):
        return now.parent
    if not os.fstat(handle).st_nlink and real.is_dir():
        fresh = _take(path, shared=False)
        if fresh is None:
            raise Stopped(f"{_busy(run_dir, read_loosely(path) or {})} (its lock file was removed meanwhile)")
        os.close(handle)
        _held[real] = fresh
        return run_dir
    raise Stopped(f"{run_dir} was moved or removed meanwhile, so nothing can be written there")


def alone(function: Callable[P, R]) -> Callable[P, R]:
    """Holds the run directory, the function's argument `run_dir`, while it works; one that is missing is not made."""
    signature = inspect.signature(function)

    @wraps(function)
    def held(*args: P.args, **kwargs: P.kwargs) -> R:
        run_dir = Path(signature.bind(*args, **kwargs).arguments["run_dir"])
        with run_lock(run_dir) if run_dir.is_dir() else nullcontext():
            return function(*args, **kwargs)

    return held


def refuse_ranks(environment: Mapping[str, str] = os.environ) -> None:
    """Refuses to be one of several processes that torchrun started to work together.

    Raises:
        UserError: saying which one this is.
    """
    rank, world = place(environment)
    if world > 1:
        raise UserError(
            f"this is rank {rank} of {world} that torchrun started: train and encode alone run in several processes, "
            "so start it without torchrun"
        )


def _take(path: Path, shared: bool) -> int | None:
    """A handle of the lock file that holds it; None where others do."""
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    for attempt in range(TRIES):
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
        try:
            fcntl.flock(handle, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            time.sleep(PAUSE_S * (attempt < TRIES - 1))
            continue
        except OSError as error:
            print(f"{path.parent}: this disk has no locks ({error.strerror}); start one process there", file=sys.stderr)
            return handle
        if is_at(handle, path):
            about = {"process": os.getpid(), "host": socket.gethostname(), "command": again()}
            with suppress(OSError):  # a full disk: who holds it is a help, and no more
                os.ftruncate(handle, 0)
                os.pwrite(handle, json.dumps(about).encode(), 0)
            return handle
        os.close(handle)  # its holder left and took the file away
    return None


def _give_back(handle: int, path: Path) -> None:
    with suppress(OSError):  # others share it
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if is_at(handle, path):
            path.unlink()
        elif now := _moved(handle):
            now.unlink()
    os.close(handle)


def _moved(handle: int) -> Path | None:
    """Path of an open lock file now; None where it is gone, or the system does not tell."""
    try:
        now = Path(os.readlink(f"/proc/self/fd/{handle}"))
        return now if is_at(handle, now) else None
    except OSError:
        return None


def _busy(run_dir: Path, about: Mapping[str, Any]) -> str:
    known = {name: about.get(name) for name in ("process", "host", "command")}
    who = "process {process} on {host} ({command})".format(**known) if all(known.values()) else "another process"
    rank = os.environ.get("RANK", "")
    own = f", and this is rank {rank} of {os.environ.get('WORLD_SIZE', 'several')}" if rank.isdigit() else ""
    return f"{run_dir} is in use by {who}{own}: wait for its end, or use another --run-dir"
