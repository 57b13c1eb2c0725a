"""Tries in processes of their own: forked, so that none pays for imports, and whatever happens to one costs only it."""

from __future__ import annotations

import contextlib
import os
import resource
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SILENT_S = 20.0  # a try that says nothing for so long hangs
ENDS_S = 10.0  # what a stopped command started must end by itself
GIB = 1 << 30


@dataclass(frozen=True)
class Ended:
    """How a child ended: its exit code, or minus the signal; what it printed; whether its own children are left."""

    code: int
    text: str
    left: int = 0

    @property
    def has_traceback(self) -> bool:
        return "Traceback (most recent call last)" in self.text

    @property
    def last_line(self) -> str:
        lines = self.text.strip().splitlines()
        return lines[-1][:200] if lines else ""


class Child:
    """A forked process that does `work`, whose return is its exit code, in a process group of its own."""

    def __init__(self, work: Callable[[], int | None]) -> None:
        self.began = time.monotonic()
        self.output, theirs = os.pipe()  # no file: a child may be forbidden to write any
        os.set_blocking(self.output, False)
        self._text = b""
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if self.pid == 0:
            _become(theirs, work)
        os.close(theirs)
        with contextlib.suppress(OSError):
            os.setpgid(self.pid, self.pid)

    def is_alive(self) -> bool:
        """Whether it still runs (it is not reaped); takes in what it printed."""
        self.drain()
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None

    def drain(self) -> None:
        """Take in what it printed so far."""
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self.output, 1 << 16):
                self._text += data

    def sleep(self, seconds: float) -> bool:
        """Wait until that long after the start; False if it ended before."""
        while self.is_alive():
            left = self.began + seconds - time.monotonic()
            if left <= 0:
                return True
            time.sleep(min(left, 0.005))
        return False

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the child alone, as a user or the kernel would."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def end(self, limit_s: float = 120.0) -> Ended:
        """Wait for its end, kill what hangs; then see that its own children end too."""
        while self.is_alive() and time.monotonic() - self.began < limit_s:
            time.sleep(0.002)
        hung = self.is_alive()
        if hung:
            os.killpg(self.pid, signal.SIGKILL)
        _, status = os.waitpid(self.pid, 0)
        deadline = time.monotonic() + ENDS_S
        while (left := len(group(self.pid))) and time.monotonic() < deadline:
            time.sleep(0.01)
        if left:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
        self.drain()
        os.close(self.output)
        text = self._text.decode("utf-8", "replace")
        code = os.waitstatus_to_exitcode(status)
        return Ended(code, f"{text}\nhung for {limit_s:.0f} s" if hung else text, left)


def _become(output: int, work: Callable[[], int | None]) -> None:
    """Run `work` in the child and end it: never returns."""
    code = 1
    try:
        os.setpgid(0, 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        code = work() or 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()
        os._exit(code)


def group(leader: int) -> list[int]:
    """Living processes of a process group."""
    members = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, pgrp = path.read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue
        if int(pgrp) == leader and state != "Z":
            members.append(int(path.parent.name))
    return members


def each(tries: Sequence[Any], work: Callable[[Any], str], ends_at: float, memory_gib: float = 4.0) -> list[str]:
    """What `work` says of every try, empty where all is well; many tries share a forked process.

    A try that crashes the process, hangs, or raises is said so; the next process goes on behind it. Stops at `ends_at`
    (monotonic): the list is then shorter than `tries`.
    """
    said: list[str] = []
    while len(said) < len(tries) and time.monotonic() < ends_at:
        said += _batch(tries[len(said) :], work, ends_at, memory_gib)
    return said


def _batch(tries: Sequence[Any], work: Callable[[Any], str], ends_at: float, memory_gib: float) -> list[str]:
    read, write = os.pipe()

    def go() -> int:
        os.close(read)
        resource.setrlimit(resource.RLIMIT_AS, (int(memory_gib * GIB) + _address_space(), resource.RLIM_INFINITY))
        for entry in tries:
            try:
                answer = work(entry)
            except Exception as error:  # noqa: BLE001 - whatever it is, it is what the try found
                answer = f"{type(error).__name__}: {error} at {_place(error)}"
            os.write(write, " ".join(answer.split())[:300].encode("utf-8", "replace") + b"\n")
            if time.monotonic() > ends_at:
                break
        return 0

    child = Child(go)
    os.close(write)
    buffer = b""
    last = time.monotonic()
    while True:
        ready, _, _ = select.select([read], [], [], 0.2)
        child.drain()
        is_silent = time.monotonic() - last > SILENT_S
        if is_silent:
            os.killpg(child.pid, signal.SIGKILL)
        data = os.read(read, 1 << 16) if ready else b""
        if is_silent or (ready and not data):
            break
        if data:
            buffer, last = buffer + data, time.monotonic()
    os.close(read)
    ended = child.end(SILENT_S)
    said = buffer.decode("utf-8", "replace").split("\n")[:-1]
    if len(said) < len(tries) and time.monotonic() < ends_at:
        how = f"hung for {SILENT_S:.0f} s" if is_silent else f"ended the process ({ended.code}): {ended.last_line}"
        said.append(how)
    return said


def _place(error: BaseException) -> str:
    """The innermost line of ours in a traceback."""
    ours = [frame for frame in traceback.extract_tb(error.__traceback__) if "fastdreamer" in frame.filename]
    return f"{Path(ours[-1].filename).name}:{ours[-1].lineno}" if ours else "?"


def _address_space() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
