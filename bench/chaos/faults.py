"""A disk that is full, refuses or fails, at every place of ours that opens, renames, makes, removes or syncs a file.

An undisturbed command says its places: a line of ours, and what it does there. Then the command runs once for every
place and error, with that error at the place's first use, and must end well or in one line; some of these follow one
another, and then it runs once more without any, to the same bits.
"""

from __future__ import annotations

import errno
import json
import mmap
import os
import resource
import sys
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

from bench.chaos.children import Child, Ended
from bench.chaos.rows import Row
from bench.chaos.stages import Setting

LEFT_OUT = "; it is left out"  # what is said of a recording that the pixel decoder does without
PACKAGE = f"{os.sep}fastdreamer{os.sep}"
CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate", "fsync")
BELOW = (("av", "open"), ("safetensors.torch", "load_file"), ("safetensors.torch", "save_file"))
LOOKS = ("os.listdir", "os.scandir")
ERRORS = {"write": (errno.ENOSPC, errno.EACCES, errno.EIO), "read": (errno.EIO, errno.EACCES)}
CHAIN = 4  # errors that follow one another before the stage must go on
LIMITS = (0, 1, 700, 5_000, 40_000)  # bytes of a file, for what is written below Python


class Watcher:
    """An audit hook over a folder, in a process and those that it forks: notes places, or raises at one of them once.

    Attributes:
        places: every place that was met, to be read when all have ended.
    """

    def __init__(self, folder: Path, place: str = "", number: int = 0) -> None:
        self.folder, self.place, self.number = str(folder), place, number
        self._seen: set[str] = set()
        self._raised = mmap.mmap(-1, 1)  # shared with what is forked
        self._notes = os.memfd_create("places")

    @property
    def has_raised(self) -> bool:
        return self._raised[0] != 0

    @property
    def places(self) -> list[str]:
        return sorted(set(os.pread(self._notes, os.fstat(self._notes).st_size, 0).decode().splitlines()))

    def close(self) -> None:
        """Close the pipes, after the last question."""
        self._raised.close()
        os.close(self._notes)

    def __call__(self, event: str, given: tuple[Any, ...]) -> None:
        kind = _kind(event, given)
        if not kind or not given or not str(_name(given[0])).startswith(self.folder) or not (at := _place(event)):
            return
        place = f"{kind} {at}"
        if not self.place and place not in self._seen:
            self._seen.add(place)
            os.write(self._notes, f"{place}\n".encode())
        if place == self.place and not self.has_raised:
            self._raised[0] = 1
            raise OSError(self.number, os.strerror(self.number), _name(given[0]))

    def watch(self) -> None:
        """Watch from now on: audits, and what is not audited: syncs, and libraries that open files below Python."""
        sys.addaudithook(self)
        self._wrap(os, "fsync", "fsync")
        for module, name in BELOW:
            if module in sys.modules:
                self._wrap(sys.modules[module], name, f"{module}.{name}")

    def _wrap(self, module: Any, name: str, event: str) -> None:
        real = getattr(module, name)

        def checked(*given: Any, **named: Any) -> Any:
            self(event, given[-1:])
            return real(*given, **named)

        setattr(module, name, checked)


def _kind(event: str, given: tuple[Any, ...]) -> str:
    if event == "open":
        mode, flags = given[1], given[2]
        is_write = any(letter in str(mode or "") for letter in "wax+") or bool(flags & (os.O_WRONLY | os.O_RDWR))
        return "write" if is_write else "read"
    if event in CHANGES or event.endswith("save_file"):
        return "write"
    return "read" if event in LOOKS or event.endswith(("load_file", "av.open")) else ""


def _name(given: Any) -> str:
    try:
        return os.fsdecode(os.readlink(f"/proc/self/fd/{given}") if isinstance(given, int) else given)
    except (OSError, TypeError):
        return ""


def _place(event: str) -> str:
    """What is done, the innermost line of ours on the stack, and the line of another file that it was called from."""
    ours: list[str] = []
    frame: FrameType | None = sys._getframe(2)
    while frame is not None and len(ours) < 2:
        _, package, file = frame.f_code.co_filename.rpartition(PACKAGE)
        if package and not (ours and ours[0].startswith(f"{file}:")):
            ours.append(f"{file}:{frame.f_lineno}")
        frame = frame.f_back
    return f"{event} {' < '.join(ours)}" if ours else ""


@dataclass(frozen=True)
class Turn:
    """A way in which the disk fails once it has begun; `is_met` says after the work whether it did fail."""

    what: str
    begin: Callable[[], None]
    is_met: Callable[[], bool] = lambda: True


def limits(given: Setting, stage: str) -> Row:
    """Files that may not grow beyond some size: what writes below Python meets a full disk too."""
    turns = []
    for limit in LIMITS:
        begin = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        turns.append(Turn(f"files of at most {limit} bytes", begin))
    tries, _, failures = _each(given, stage, turns)
    return Row("disk", f"full in {stage}", tries, failures)


def places(given: Setting, stage: str) -> Row:
    """Every place of a stage, with one error each; which, depends on the seed."""
    found = _places(given, stage)
    tries, met, failures = _with_errors(given, stage, _plan(found, given.seed)[: len(found)])
    return Row("disk", f"places of {stage}", tries, failures, f"{met} of {len(found)} places met")


def other_errors(given: Setting, stage: str) -> Row:
    """Every place of a stage, with the errors that it did not meet in `places`."""
    found = _places(given, stage)
    plan = _plan(found, given.seed)[len(found) :]
    tries, _, failures = _with_errors(given, stage, plan)
    note = f"{len(plan) - tries} tries left out for time" if len(plan) > tries else ""
    return Row("disk", f"other errors in {stage}", tries, failures, note)


def _plan(found: list[str], seed: int) -> list[tuple[str, int]]:
    """Places and errors: first every place once, then those with another error, and so on."""
    errors = [ERRORS[place.partition(" ")[0]] for place in found]
    return [
        (place, numbers[(index + turn + seed) % len(numbers)])
        for turn in range(max(map(len, ERRORS.values())))
        for index, (place, numbers) in enumerate(zip(found, errors, strict=True))
        if turn < len(numbers)
    ]


def _places(given: Setting, stage: str) -> list[str]:
    """What an undisturbed run meets; asked once, and noted in the shared folder."""
    noted = given.shared / f"places-{stage}.json"
    if not noted.exists():
        given.bench.restore(stage)
        watcher = Watcher(given.bench.work)
        ended = _run(given, stage, watcher.watch)
        assert ended.code == 0, ended.text
        noted.write_text(json.dumps(watcher.places))
        watcher.close()
    found: list[str] = json.loads(noted.read_text())
    return found


def _run(given: Setting, stage: str, begin: Callable[[], None]) -> Ended:
    """The stage, in a child in which `begin` is called first."""

    def work() -> None:
        begin()
        given.bench.command(stage, forks=True)

    return Child(work).end(60.0)


def _with_errors(given: Setting, stage: str, plan: list[tuple[str, int]]) -> tuple[int, int, list[str]]:
    watchers = [Watcher(given.bench.work, place, number) for place, number in plan]
    result = _each(given, stage, [
        Turn(f"{errno.errorcode[w.number]} at {w.place}", w.watch, partial(getattr, w, "has_raised")) for w in watchers
    ])  # fmt: skip
    for watcher in watchers:
        watcher.close()
    return result


def _each(given: Setting, stage: str, turns: list[Turn]) -> tuple[int, int, list[str]]:
    """How many turns were tried, how many of them met their error, and what went wrong.

    Up to `CHAIN` of them follow one another, each on what the one before left; then the stage must go on undisturbed.
    What does not come to its turn there, for the work was done before, is tried anew in a clean folder.
    """
    bench, waiting, tries, met, failures = given.bench, deque(turns), 0, 0, list[str]()
    while waiting and not given.clock.is_over:
        bench.restore(stage)
        chain: list[str] = []
        is_checked, is_same = False, True
        trouble: list[str] = []
        while waiting and len(chain) < CHAIN:
            turn = waiting.popleft()
            ended = _run(given, stage, turn.begin)
            if chain and not turn.is_met():
                waiting.appendleft(turn)
                trouble = bench.left(stage, ended, is_same)
                is_checked = True
                break
            chain.append(turn.what)
            met += turn.is_met()
            if wrong := unclear(ended):
                trouble, is_checked = [wrong], True
                break
            if ended.code == 0:
                is_checked = bench.is_done(stage)
                # An episode that was set aside and comes later does not move the others; nor does one that the pixel
                # decoder was trained without, which is said.
                is_same = stage != "encode" and LEFT_OUT not in ended.text
                break
        tries += len(chain)
        if not is_checked:
            trouble = bench.again(stage, is_same, forks=True)
        failures += [f"{' then '.join(chain)}: {text}".replace(str(bench.root), "...") for text in trouble]
    return tries, met, failures


def unclear(ended: Ended) -> str:
    """How a command did not end as it should where something is wrong: well, or in one line of error."""
    errors = [line for line in ended.text.splitlines() if line.startswith("fastdreamer: error: ")]
    if ended.has_traceback:
        return f"a traceback: {ended.last_line}"
    if ended.code not in (0, 2):
        return f"exit code {ended.code}: {ended.last_line}"
    if ended.code == 2 and len(errors) != 1:
        return f"{len(errors)} lines of error: {ended.last_line}"
    return ""
