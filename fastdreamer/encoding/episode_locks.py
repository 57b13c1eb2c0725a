"""Several processes on one store: each episode is encoded by one of them, and a killed one holds nothing.

A lock is a POSIX record lock on a byte of one file in the store: the system gives it back when a process ends,
however it ends, and it works between machines that share the folder over NFS 4.
"""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Self

from fastdreamer.encoding.producers import BoundedQueue
from fastdreamer.errors import UserError
from fastdreamer.recordings.recording import Recording

LOCK_FILE = ".claims"
_MANIFEST, _USERS, _EPISODES = 0, 1, 16  # first bytes
POLL_S = 0.2  # how often an episode that another process has is asked for


class EpisodeLocks:
    """What this process holds of a store. Use it as a context manager.

    Threads of one process share its locks: two of them must not take the same episode.

    Args:
        store: its folder.
        most: episodes that `each` may hold at once, so that a fast reader does not take them all from the others.
    """

    def __init__(self, store: Path, most: int = 1_000_000) -> None:
        self.path = store / LOCK_FILE
        self._turn = threading.RLock()  # record locks do not keep threads apart
        self._held = threading.Semaphore(most)

    def __enter__(self) -> Self:
        """Join those who work on the store.

        Raises:
            UserError: if its folder cannot be made or written to, or has no locks.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            fcntl.lockf(self._file, fcntl.LOCK_SH, 1, _USERS)
        except OSError as error:
            folder = self.path.parent
            raise UserError(
                f"cannot work in {folder} ({error.strerror}): choose a folder that can be written to, on a file system "
                "with POSIX locks"
            ) from error
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the store and release all locks."""
        os.close(self._file)

    def take(self, name: str) -> bool:
        """Lock an episode, unless another process holds it."""
        return self._takes(_byte(name))

    def _takes(self, byte: int) -> bool:
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, byte)
        except (BlockingIOError, PermissionError):
            return False
        return True

    def each(self, recordings: Sequence[Recording], queue: BoundedQueue) -> Iterator[Recording]:
        """Lock the recordings one by one.

        Those of other processes come last, when they are given back: theirs may have died, so none is left out.
        """
        waiting = deque(recordings)
        while waiting:
            for _ in range(len(waiting)):
                while not self._held.acquire(timeout=POLL_S):
                    queue.check()
                recording = waiting.popleft()
                if self.take(recording.name):
                    yield recording
                else:
                    self._held.release()
                    waiting.append(recording)
            if waiting:
                queue.check()
                time.sleep(POLL_S)

    def give_back(self, name: str) -> None:
        """Release an episode: another process may lock it, and finds in the manifest what became of it."""
        fcntl.lockf(self._file, fcntl.LOCK_UN, 1, _byte(name))
        self._held.release()

    @contextmanager
    def manifest(self) -> Iterator[None]:
        """Hold the manifest: nobody else reads or replaces it meanwhile."""
        with self._turn:
            fcntl.lockf(self._file, fcntl.LOCK_EX, 1, _MANIFEST)
            try:
                yield
            finally:
                fcntl.lockf(self._file, fcntl.LOCK_UN, 1, _MANIFEST)

    def is_alone(self) -> bool:
        """Whether no other process works on the store; call it within `manifest`."""
        if is_alone := self._takes(_USERS):
            fcntl.lockf(self._file, fcntl.LOCK_SH, 1, _USERS)
        return is_alone

    @contextmanager
    def leave(self) -> Iterator[bool]:
        """Whether this is the last process that works on the store; when the block ends it no longer does.

        Call it within `manifest`, so that of two that leave at once one is the last.
        """
        is_last = self._takes(_USERS)
        try:
            yield is_last
        finally:
            fcntl.lockf(self._file, fcntl.LOCK_UN, 1, _USERS)


def _byte(name: str) -> int:
    return _EPISODES + int.from_bytes(sha256(name.encode("utf-8", "surrogateescape")).digest()[:7], "big")
