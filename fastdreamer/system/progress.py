"""Progress of long work: a rich bar on a terminal, plain lines elsewhere. Always on stderr: stdout is for results."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from fastdreamer.system.terminal import name, uncleaned

PLAIN_INTERVAL_S = 10.0
BAR_INTERVAL_S = 0.1


class Bar(Protocol):
    """What `track` gives: call `advance` after every piece of work."""

    def advance(self, n: int = 1, **figures: float | str) -> None:
        """`n` units are done; `figures` (loss=0.12) are shown beside rate, time left and memory."""


@contextmanager
def track(title: str, total: int, unit: str = "steps", start: int = 0) -> Iterator[Bar]:
    """Show the progress of `total` units of work, of which `start` were done before (a resumed run).

    On a terminal this is a bar with rate, time left and memory; elsewhere at most one line every ten seconds and one
    at the end, so that a log file stays readable.
    """
    # A bare machine with torch alone has no rich: plain lines there too.
    bar = _rich_bar(title, total, unit, start) if sys.stderr.isatty() else None
    tracker = bar or _PlainBar(title, total, unit, start)
    try:
        yield tracker
    finally:
        tracker.close()


def memory_gb() -> float:
    """Resident memory of this process, or what is reserved on the GPU once CUDA is in use, in GiB."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        return float(torch.cuda.memory_reserved()) / 2**30
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**30
    except OSError:
        import resource

        scale = 1 if sys.platform == "darwin" else 1024  # ru_maxrss is bytes on macOS, KiB elsewhere
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale / 2**30


class _Counter:
    """What both displays share: how much is done, how fast, how long still."""

    def __init__(self, title: str, total: int, unit: str, start: int) -> None:
        self.title, self.total, self.unit = title, total, unit
        self.start = self.done = start
        self.began = self.shown = time.monotonic()
        self.figures: dict[str, float | str] = {}

    def advance(self, n: int = 1, **figures: float | str) -> None:
        self.done += n
        self.figures.update(figures)
        now = time.monotonic()
        if now - self.shown >= self.interval_s:
            self.shown = now
            self.show()

    interval_s = PLAIN_INTERVAL_S

    def show(self) -> None:
        raise NotImplementedError

    def status(self) -> str:
        elapsed = max(time.monotonic() - self.began, 1e-9)
        rate = (self.done - self.start) / elapsed
        left = "" if rate == 0 or self.done >= self.total else f"{_clock((self.total - self.done) / rate)} left"
        spent = f"in {_clock(elapsed)}" if self.done >= self.total else ""
        figures = " ".join(
            f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {name(str(value))}"
            for key, value in self.figures.items()
        )
        parts = (f"{rate:,.{0 if rate >= 100 else 1}f} {self.unit}/s", left, spent, f"{memory_gb():.1f} GiB", figures)
        return ", ".join(part for part in parts if part)


class _PlainBar(_Counter):
    def show(self) -> None:
        print(f"{self.title}: {self.done:,}/{self.total:,} {self.unit}, {self.status()}", file=sys.stderr, flush=True)

    def close(self) -> None:
        self.show()


class _RichBar(_Counter):
    interval_s = BAR_INTERVAL_S

    def __init__(self, title: str, total: int, unit: str, start: int, progress: Any) -> None:
        super().__init__(title, total, unit, start)
        self.progress = progress
        self.task = progress.add_task(title, total=total, completed=start, status="")
        progress.start()

    def show(self) -> None:
        self.progress.update(self.task, completed=self.done, status=self.status())
        self.progress.refresh()

    def close(self) -> None:
        self.show()
        self.progress.stop()


def _rich_bar(title: str, total: int, unit: str, start: int) -> _RichBar | None:
    try:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    except ModuleNotFoundError:
        return None
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[status]}"))
    # No refresh thread: the work may fork, and a forked copy of a thread's lock never opens.
    console = Console(file=uncleaned(sys.stderr))
    return _RichBar(title, total, unit, start, Progress(*columns, console=console, auto_refresh=False))


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
