"""What a rank tells the others by the launcher's store, and hears from them: a thread that runs beside the work.

A collective cannot be interrupted, and says neither who is missing nor why. So every rank says a few times a second
where it is; the first that knows why all must end says so in one line, prints it, and the others end without a word.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

from fastdreamer.errors import Ended

BEAT_S = 0.2
SILENT_S = 60.0  # a rank on another machine that is not heard of for so long is lost
LOST_S = 6.0  # so long is looked for the reason of a connection that broke
GRACE_S = 5.0  # what is left of a rank once all must end
SAVES_S = 28.0  # unless it saves what was trained; torchrun kills after 30 s
SAVING = "while it saves"
STATUS_LOST = 2


class Store(Protocol):
    """The part of torch's stores that is used: nothing here waits."""

    def set(self, key: str, value: str, /) -> None: ...
    def get(self, key: str, /) -> bytes: ...
    def check(self, keys: list[str], /) -> bool: ...
    def compare_set(self, key: str, expected_value: str, desired_value: str, /) -> bytes: ...


class Gone(Ended):
    """The launcher's store does not answer: torchrun has ended, and nobody else would stop this process."""


class LaunchersStore:
    """A store of torch, whose failures are all one: torchrun is gone."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def set(self, key: str, value: str, /) -> None:
        with _reached():
            self.store.set(key, value)

    def get(self, key: str, /) -> bytes:
        with _reached():
            return self.store.get(key)

    def check(self, keys: list[str], /) -> bool:
        with _reached():
            return self.store.check(keys)

    def compare_set(self, key: str, expected_value: str, desired_value: str, /) -> bytes:
        with _reached():
            return self.store.compare_set(key, expected_value, desired_value)


@contextmanager
def _reached() -> Iterator[None]:
    try:
        yield
    except RuntimeError:
        raise Gone(128 + signal.SIGTERM) from None


class Heartbeats:
    """One rank's word to the others and theirs to it.

    Attributes:
        doing: what this rank is at, in words.
        count: how many times it has begun to wait for others.
        requests: SIGTERM, once the launcher is gone: nobody else would stop this process.
    """

    def __init__(self, store: Store, rank: int, world: int) -> None:
        self.store, self.rank, self.world = store, rank, world
        self.doing, self.count = "starting", 0
        self.requests: list[int] = []
        self.errors: Any = sys.stderr
        self.is_done = False
        self._parent = os.getppid()
        self._beat = 0
        self._ends_at = 0.0
        self._heard: dict[int, tuple[str, float]] = {}
        self._others: dict[int, dict[str, Any]] = {}
        self._posting, self._has_posted = threading.Lock(), False
        self._over = threading.Event()
        store.set(f"who/{rank}", json.dumps(who()))
        self._thread = threading.Thread(target=self._run, name="ranks", daemon=True)
        self._thread.start()

    def name(self, rank: int) -> str:
        """A rank in words."""
        about = self._about(rank)
        return f"rank {rank} of {self.world}" + (f" (process {about['pid']} on {about['host']})" if about else "")

    def post(self, line: str, status: int) -> None:
        """Ends all ranks with a line, unless another was quicker; the one that is first prints it."""
        with self._posting:
            if self._has_posted:
                return
            self._has_posted = True
        mine = json.dumps({"by": self.rank, "line": line, "status": status})
        if self.store.compare_set("end", "", mine) == mine.encode() and line:
            with suppress(OSError):
                print(f"fastdreamer: error: {line}", file=self.errors, flush=True)

    def ended(self) -> Ended | None:
        """What ended the work, if something has."""
        return Ended(int(json.loads(self.store.get("end"))["status"])) if self.store.check(["end"]) else None

    def check(self) -> None:
        """Raises Ended if the work was ended, or a rank is gone."""
        if not self.ended():
            self._look_for_the_dead()
        if ended := self.ended():
            raise ended

    def wait(self, key: str, limit_s: float | None = None) -> None:
        """Waits for a key of the store, as long as nothing ends the work.

        Raises:
            Ended: if something does, or the limit is over.
        """
        began, pause_s = time.monotonic(), 0.001
        while not self.store.check([key]):
            self.check()
            if limit_s is not None and time.monotonic() - began > limit_s:
                raise self.late(limit_s)
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, 0.1)

    def late(self, limit_s: float) -> Ended:
        """The end after waiting for so long: names those that are furthest behind."""
        beats = {rank: self._beat_of(rank) for rank in range(self.world)}
        least = min(count for count, _ in beats.values())
        behind = [rank for rank, (count, _) in beats.items() if count == least < self.count] or [self.rank]
        named = "; ".join(f"{self.name(rank)}, last heard of {beats[rank][1]}" for rank in behind)
        self.post(f"the others waited {limit_s:g} s (ranks.timeout_s) for {named}", STATUS_LOST)
        return self.ended() or Ended(STATUS_LOST)

    def broken(self, error: BaseException) -> Ended:
        """The end after a connection that broke: by what ended it, else by who is gone, else by what it said."""
        until = time.monotonic() + LOST_S
        try:
            while time.monotonic() < until:
                self._look_for_the_dead(LOST_S / 2)
                if ended := self.ended():
                    return ended
                time.sleep(0.05)
            said = " ".join(str(error).split())[:200]
            self.post(f"{self.name(self.rank)} lost the others {self.doing} ({said})", STATUS_LOST)
            return self.ended() or Ended(STATUS_LOST)
        except Gone as gone:
            return gone

    def stop(self) -> None:
        """Ends the thread."""
        self._over.set()
        self._thread.join(5)

    def _run(self) -> None:
        lost_at = 0.0
        while not self._over.wait(BEAT_S):
            try:
                self._turn()
                lost_at = 0.0
            except Gone:
                lost_at = lost_at or time.monotonic()
            is_orphan = os.getppid() != self._parent
            if (lost_at or is_orphan) and not self.requests:
                self.requests.append(signal.SIGTERM)
                self._ends_at = time.monotonic() + SAVES_S
            late_s = time.monotonic() - self._ends_at if self._ends_at else 0.0
            if late_s > (SAVES_S if self.doing == SAVING else 0.0) and not self.is_done:
                os._exit(128 + signal.SIGTERM if self.requests else STATUS_LOST)

    def _turn(self) -> None:
        self._beat += 1
        self.store.set(f"beat/{self.rank}", json.dumps([self._beat, self.count, self.doing]))
        if not self._ends_at and self.ended():
            self._ends_at = time.monotonic() + GRACE_S
        if not self._ends_at:
            self._look_for_the_dead()

    def _look_for_the_dead(self, silent_s: float = SILENT_S) -> None:
        """Says so of a rank that ended without a word."""
        own, now = who(), time.monotonic()
        for rank in range(self.world):
            about = self._about(rank)
            if rank == self.rank or about is None:
                continue
            is_here = bool(own["boot"]) and all(about[name] == own[name] for name in ("host", "boot", "space"))
            beat = self._text(f"beat/{rank}")
            if rank not in self._heard or self._heard[rank][0] != beat:
                self._heard[rank] = beat, now
            is_gone = born(about["pid"]) != about["born"] if is_here else now - self._heard[rank][1] > silent_s
            if is_gone and not self.store.check(["done"]):
                why = "ended without a word (killed, or out of the machine's memory)" if is_here else "is silent"
                self.post(f"{self.name(rank)} {why}; last heard of {self._beat_of(rank)[1]}", STATUS_LOST)

    def _about(self, rank: int) -> dict[str, Any] | None:
        if rank not in self._others and self.store.check([f"who/{rank}"]):
            self._others[rank] = json.loads(self.store.get(f"who/{rank}"))
        return self._others.get(rank)

    def _beat_of(self, rank: int) -> tuple[int, str]:
        """How often a rank has begun to wait, and where it was."""
        if rank == self.rank:
            return self.count, self.doing
        beat = self._text(f"beat/{rank}")
        _, count, doing = json.loads(beat) if beat else (0, 0, "before its start")
        return count, doing

    def _text(self, key: str) -> str:
        return self.store.get(key).decode() if self.store.check([key]) else ""


def who() -> dict[str, Any]:
    """This process, so that others on its machine find it."""
    about: dict[str, Any] = {"host": socket.gethostname(), "pid": os.getpid(), "born": born(os.getpid())}
    about |= {"boot": "", "space": ""}
    with suppress(OSError):  # where there is no /proc, others go by what they hear
        about["boot"] = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        about["space"] = os.readlink("/proc/self/ns/pid")
    return about


def born(process: int) -> str:
    """The time at which a process began, by the machine's clock; empty where it is gone or a zombie."""
    try:
        text = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    state, *rest = text.rpartition(")")[2].split()
    return "" if state in "ZX" else rest[18]
