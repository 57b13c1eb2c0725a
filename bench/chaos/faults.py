"""A disk that is full, refuses or fails, at every place of ours that opens, renames, makes, removes or syncs a file.

An undisturbed command says its places: a line of ours, and what it does there. Then the command runs once for every
place and error, with that error at the place's first use, and must end well or in one line; and then once more without
it, to the same bits.
"""

from __future__ import annotations

import errno
import json
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from bench.chaos.children import Child, Ended
from bench.chaos.rows import Clock, Row
from bench.chaos.stages import Bench

PACKAGE = f"{os.sep}fastdreamer{os.sep}"
CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate", "fsync")
BELOW = (("av", "open"), ("safetensors.torch", "load_file"), ("safetensors.torch", "save_file"))
LOOKS = ("os.listdir", "os.scandir")
ERRORS = {"write": (errno.ENOSPC, errno.EACCES, errno.EIO), "read": (errno.EIO, errno.EACCES)}
LIMITS = (0, 1, 700, 5_000, 40_000)  # bytes of a file, for what is written below Python


class Watcher:
    """An audit hook over a folder: notes places, or raises at one of them."""

    def __init__(self, folder: Path, place: str = "", number: int = 0) -> None:
        self.folder, self.place, self.number = str(folder), place, number
        self.seen: dict[str, str] = {}
        self.has_raised = False

    def __call__(self, event: str, given: tuple[Any, ...]) -> None:
        kind = _kind(event, given)
        if not kind or self.has_raised or not given or not str(_name(given[0])).startswith(self.folder):
            return
        place = _place(event)
        if not place:
            return
        place = f"{kind} {place}"
        self.seen.setdefault(place, kind)
        if place == self.place:
            self.has_raised = True
            raise OSError(self.number, os.strerror(self.number), _name(given[0]))

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Audits, and what is not audited: syncs, and libraries that open files below Python."""
        sys.addaudithook(self)
        self._wrap(os, "fsync", "fsync")
        for module, name in BELOW:
            if module in sys.modules:
                self._wrap(sys.modules[module], name, f"{module}.{name}")
        yield

    def _wrap(self, module: Any, name: str, event: str) -> None:
        real = getattr(module, name)

        def checked(*given: Any, **named: Any) -> Any:
            self(event, tuple(os.readlink(f"/proc/self/fd/{x}") if isinstance(x, int) else x for x in given[::-1][:1]))
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


def faults(bench: Bench, stage: str, clock: Clock) -> Row:
    """Every place of a stage, with every error."""
    began, failures = time.monotonic(), list[str]()
    places = _places(bench, stage)
    plan = [(place, number) for index in range(3) for place, number in _turns(places, index)]
    tries = 0
    for place, number in plan:
        if clock.is_over:
            break
        tries += 1
        failures += _try(bench, stage, _with_fault(place, number), f"{errno.errorcode[number]} at {place}")
    left = len(plan) - tries
    note = f"{len(places)} places" + (f"; {left} tries left out for time" if left else "")
    return Row("disk", f"error in {stage}", tries, failures, note, time.monotonic() - began)


def limits(bench: Bench, stage: str, clock: Clock) -> Row:
    """Files that may not grow beyond some size: what writes below Python meets a full disk too."""
    began, failures, tries = time.monotonic(), list[str](), 0
    for limit in LIMITS:
        if clock.is_over:
            break
        tries += 1

        def limited(work: Callable[[], None], limit: int = limit) -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
            work()

        failures += _try(bench, stage, limited, f"files of at most {limit} bytes")
    return Row("disk", f"full in {stage}", tries, failures, "", time.monotonic() - began)


def _turns(places: dict[str, str], index: int) -> list[tuple[str, int]]:
    """The `index`-th error of every place that has so many."""
    return [(place, ERRORS[kind][index]) for place, kind in places.items() if index < len(ERRORS[kind])]


def _places(bench: Bench, stage: str) -> dict[str, str]:
    bench.restore(stage)
    out = bench.root / "places.json"

    def note() -> None:
        watcher = Watcher(bench.work)
        try:
            with watcher.watching():
                bench.command(stage)
        finally:
            watcher.folder = "nothing more"
            out.write_text(json.dumps(watcher.seen))

    Child(lambda: note()).end()
    found: dict[str, str] = json.loads(out.read_text())
    return found


def _with_fault(place: str, number: int) -> Callable[[Callable[[], None]], None]:
    def run(work: Callable[[], None]) -> None:
        with Watcher(_FOLDER[0], place, number).watching():
            work()

    return run


_FOLDER = [Path()]


def _try(bench: Bench, stage: str, disturb: Callable[[Callable[[], None]], None], what: str) -> list[str]:
    _FOLDER[0] = bench.work
    bench.restore(stage)
    ended = Child(lambda: disturb(lambda: bench.command(stage))).end(60.0)
    wrong = unclear(ended)
    if not wrong and ended.code == 0 and bench.is_done(stage):
        return []
    has_set_aside = stage == "encode" and ended.code == 0  # an episode that comes later does not move the others
    found = [wrong] if wrong else bench.again(stage, is_same=not has_set_aside)
    return [f"{what}: {text}".replace(str(bench.root), "...") for text in found]


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
