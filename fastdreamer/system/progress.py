"""Progress of long work: a rich bar on a terminal, plain lines elsewhere. Always on stderr: stdout is for results."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from fastdreamer.system.output import name, uncleaned

PLAIN_INTERVAL_S = 10.0
BAR_INTERVAL_S = 0.1


@contextmanager
def track(title: str, total: int, unit: str = "steps", start: int = 0) -> Iterator[Bar]:
    """Show the progress of `total` units of work, of which `start` were done before (a resumed run).

    On a terminal this is a bar with rate, time left and memory; elsewhere at most one line every ten seconds and one
    at the end, so that a log file stays readable.
    """
    bar = Bar(title, total, unit, start, _rich_progress() if sys.stderr.isatty() else None)
    try:
        yield bar
    finally:
        bar.close()


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


class Bar:
    """How much is done, how fast, how long still: in a bar of rich's, or without one as lines."""

    def __init__(self, title: str, total: int, unit: str, start: int, progress: Any) -> None:
        self.title, self.total, self.unit, self.progress = title, total, unit, progress
        self.start = self.done = start
        self.began = self.shown = time.monotonic()
        self.figures: dict[str, float | str] = {}
        if progress is not None:
            self.task = progress.add_task(title, total=total, completed=start, status="")
            progress.start()

    def advance(self, n: int = 1, **figures: float | str) -> None:
        """`n` units are done; `figures` (loss=0.12) are shown beside rate, time left and memory."""
        self.done += n
        self.figures.update(figures)
        now = time.monotonic()
        if now - self.shown >= (PLAIN_INTERVAL_S if self.progress is None else BAR_INTERVAL_S):
            self.shown = now
            self.show()

    def show(self) -> None:
        if self.progress is None:
            line = f"{self.title}: {self.done:,}/{self.total:,} {self.unit}, {self.status()}"
            print(line, file=sys.stderr, flush=True)
        else:
            self.progress.update(self.task, completed=self.done, status=self.status())
            self.progress.refresh()

    def close(self) -> None:
        self.show()
        if self.progress is not None:
            self.progress.stop()

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


def _rich_progress() -> Any:
    """A bar of rich's; None on a bare machine with torch alone, which has no rich."""
    try:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    except ModuleNotFoundError:
        return None
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[status]}"))
    # No refresh thread: the work may fork, and a forked copy of a thread's lock never opens.
    return Progress(*columns, console=Console(file=uncleaned(sys.stderr)), auto_refresh=False)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
