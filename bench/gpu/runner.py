"""Runs parts one after another (two at a time in a dry run, where nothing is timed) until the minutes are over."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any

from bench.gpu import process
from bench.gpu.parts import Part
from bench.gpu.plan import ROOT, Work, environment, memory_of
from bench.gpu.reading import Figure, contents, read
from bench.gpu.table import PartRow, save, tail

LEAST_S = 15.0
"""A part is not begun where less is left."""
LANES = 2


@dataclass
class Runner:
    """All parts of some work; `rows` are there from the start, and are written whenever one changes.

    Attributes:
        work: the parts and their machine.
        stop: an event that is set from outside, by a signal.
        say: the function that shows a line a part.
        silent_s: seconds of silence that count as hanging (see `process.run`).
        least_s: seconds below which no part is begun.
    """

    work: Work
    stop: threading.Event = field(default_factory=threading.Event)
    say: Callable[[str], None] = print
    silent_s: float = process.SILENT_S
    least_s: float = LEAST_S

    def __post_init__(self) -> None:
        self.rows = [PartRow(part.name, part.about) for part in self.work.parts]
        self._lock = threading.Lock()
        self._ends = time.monotonic() + 60 * self.work.minutes
        self._save()

    def run(self) -> list[PartRow]:
        """Every part is a row when this returns."""
        lanes = LANES if self.work.is_dry else 1
        with ThreadPoolExecutor(lanes) as pool:
            pairs = zip(self.work.parts, self.rows, strict=True)
            waiting: set[Future[None]] = {pool.submit(self._part, part, row) for part, row in pairs}
            while waiting:  # a wait with an end lets signals through
                done, waiting = wait(waiting, timeout=0.2)
                for future in done:
                    future.result()
        return self.rows

    def _part(self, part: Part, row: PartRow) -> None:
        left_s = self._ends - time.monotonic()
        if reason := self.work.left_out.get(part.name):
            self._set(row, verdict="left out", figures=[(reason, "")])
        elif self.stop.is_set():
            self._set(row, verdict="left out", figures=[("stopped", "")])
        elif left_s < self.least_s:
            self._set(row, verdict="left out for time")
        else:
            try:
                self._started(part, row, left_s)
            except Exception as error:  # a full disk, no more processes: the other parts are worth a try
                self._set(row, verdict="failed", figures=[(f"{type(error).__name__}: {error}", "")])
        self.say(f"{row.part}: {row.verdict}{f' ({row.seconds:.0f} s)' if row.seconds else ''}")

    def _started(self, part: Part, row: PartRow, left_s: float) -> None:
        work, folder = self.work, self.work.out
        log, out = folder / "logs" / f"{part.name}.log", folder / f"{part.name}.json"
        log.parent.mkdir(parents=True, exist_ok=True)
        out.unlink(missing_ok=True)  # of an earlier run into the same folder
        memory, device = memory_of(part, work.about), "cpu" if work.is_dry else "cuda"
        words = part.command(work.is_dry, device, memory, str(out))
        limit_s = min(part.limit_s, left_s)
        self._set(row, verdict="running", command=words, limit_s=limit_s, memory_gb=memory)
        own: Mapping[str, str] = environment(work.is_dry) | (
            {"TRITON_INTERPRET": "1"} if work.is_dry and part.is_interpreted else {}
        )
        command = [sys.executable, "-m", "bench.gpu.start", f"{memory:g}", *words]
        ended = process.run(command, log, limit_s, ROOT, own, self.stop, self.silent_s)
        found = read(part, ended, log, out, work.is_dry, is_cut=limit_s < part.limit_s)
        self._set(
            row, verdict=found.verdict, figures=found.figures, seconds=ended.seconds, code=ended.code,
            measured=contents(out), log=tail(log, found.verdict),
        )  # fmt: skip

    def _set(self, row: PartRow, **fields: Any) -> None:
        with self._lock:
            for name, value in fields.items():
                setattr(row, name, [Figure(*figure) for figure in value] if name == "figures" else value)
            self._save()

    def _save(self) -> None:
        save(self.work.out, self.work.about, self.rows)
