"""One part as a process: its log, its time limit, and an end that leaves nothing of it behind."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

MARK = "FASTDREAMER_GPU_PART"
"""A mark in the environment of a part and of all that it starts: what has left its group is found by it as well."""
SILENT_S = 90.0
"""A part that prints nothing and takes hardly any processor time for so long hangs."""
IDLE = 0.01
"""Share of a core that counts as none: threads that only look whether there is something to do."""
DIES_S = 10.0
"""A process that is killed and still there after that waits for the driver: it is named, and not waited for."""
SURE = 10
"""Looks that find nothing, one on another: a process that goes on in its child can slip through one."""
LOOK_S = 1.0
"""Seconds between two looks at what a part has started; looking takes time from what is measured."""
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Ended:
    """How a part ended.

    Attributes:
        code: exit code, or minus the signal; None where it could not even be killed.
        seconds: the time from start to end.
        why: it was ended from here, and why; "" where it ended by itself.
        left: processes that it had left behind, and that were killed.
        alive: processes that could not be killed.
    """

    code: int | None
    seconds: float
    why: Literal["", "time", "silence", "stop"] = ""
    left: int = 0
    alive: int = 0


def run(
    command: Sequence[str], log: Path, limit_s: float, folder: Path, environment: Mapping[str, str],
    stop: threading.Event, silent_s: float = SILENT_S,
) -> Ended:  # fmt: skip
    """Runs a command to its end, or ends it with all that it started; both streams go to `log`."""
    token = uuid.uuid4().hex
    began = time.monotonic()
    with log.open("wb") as output:
        child = subprocess.Popen(
            list(command), cwd=folder, env={**environment, MARK: token}, stdin=subprocess.DEVNULL, stdout=output,
            stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    why: Literal["", "time", "silence", "stop"] = ""
    (printed, worked), last = (-1, 0), began
    try:
        while not why and not _is_over(child, min(LOOK_S, silent_s / 4, began + limit_s - time.monotonic()), stop):
            now = time.monotonic()
            size, ticks = log.stat().st_size, _ticks(members(token, child.pid))
            if size != printed or abs(ticks - worked) > IDLE * silent_s * TICKS:  # less where a child has ended
                (printed, worked), last = (size, ticks), now
            if stop.is_set():
                why = "stop"
            elif now - began >= limit_s:
                why = "time"
            elif now - last > silent_s:
                why = "silence"
    finally:
        is_over = child.poll() is not None
        left = len(members(token, child.pid)) if is_over else 0
        alive = _end(token, child)
    with suppress(subprocess.TimeoutExpired):
        child.wait(0.1)
    return Ended(child.returncode, time.monotonic() - began, why if not is_over else "", left, alive)


def _is_over(child: subprocess.Popen[bytes], seconds: float, stop: threading.Event) -> bool:
    """Waits so long, or until it ends or all is to stop; whether it has ended."""
    until = time.monotonic() + seconds
    while child.poll() is None and time.monotonic() < until and not stop.wait(0.05):
        pass
    return child.poll() is not None


def _end(token: str, child: subprocess.Popen[bytes]) -> int:
    """Kills all that is left of a part, again and again, as it may start more; returns how many will not die."""
    deadline, left, empty = time.monotonic() + DIES_S, 0, 0
    while empty < SURE and time.monotonic() < deadline:
        left = 0
        for pid in _each(token, child.pid):  # at once: what goes on under new numbers would be gone
            left += 1
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        child.poll()  # takes the dead one out of the list
        empty = 0 if left else empty + 1
    return left


def members(token: str, group: int) -> list[int]:
    """Living processes that carry the mark, or are of the process group."""
    return list(_each(token, group))


def _each(token: str, group: int) -> Iterator[int]:
    wanted = f"{MARK}={token}".encode()
    newest_first = sorted((int(name) for name in os.listdir("/proc") if name.isdecimal()), reverse=True)
    for pid in newest_first:
        folder = Path(f"/proc/{pid}")
        try:
            state, _, pgrp = (folder / "stat").read_text().rpartition(")")[2].split()[:3]
            is_ours = int(pgrp) == group or wanted in (folder / "environ").read_bytes().split(b"\0")
        except OSError:  # it has ended, or is another user's
            continue
        if is_ours and state not in "ZX":
            yield pid


def _ticks(pids: Sequence[int]) -> int:
    """Processor time that those have taken, with their children that have ended."""
    total = 0
    for pid in pids:
        with suppress(OSError, IndexError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            total += sum(int(field) for field in fields[11:15])
    return total
