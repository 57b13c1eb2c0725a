"""`compile: auto` on a CPU: a phase begins eagerly and is compiled where that pays over the steps that are left.

What it takes and saves is first guessed by what was measured elsewhere (NOTES.md), then known: every phase that was
compiled here leaves its figures beside the compiled code, which the next one finds on disk. Compiled code adds in
another order, so a checkpoint says which it was trained by, and a resumed phase goes on with it.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from fastdreamer.config import Config
from fastdreamer.device import Backend
from fastdreamer.errors import UserError
from fastdreamer.system import compiling
from fastdreamer.system.files import write_atomic
from fastdreamer.system.json_files import NUMBER, digest, fault, read_loosely

DECIDES_AFTER = 3  # steps, of which the first also warms up
SETTLES_AFTER = 12  # steps; the median of those behind the first is the step's time
SLOW = 3.0  # a step that takes this many times the usual one compiled something
MOST = 10_000  # times that are kept
GAIN = {1: 0.15, 3: 0.15}  # share of a step that compiling takes away: the least that was measured (NOTES.md)
COLD_S = {1: 60.0, 3: 90.0}  # seconds of compiling a phase
WARM = 0.3  # the most of it that it takes where the code is on disk
FIGURES = {"eager_s": NUMBER, "compiled_s": NUMBER, "cold_s": NUMBER, "warm_s?": NUMBER}
SETTINGS = ("dynamics", "forcing", "heads", "imagination", "sampling", "tokenizer")


class WhenToCompile:
    """Watches the steps of a phase and compiles it once, when that pays.

    Args:
        noted: what the checkpoint says that is gone on from: compiled or not; anything else where it was not decided.
    """

    def __init__(self, config: Config, number: int, backend: Backend, steps: int, title: str, noted: object) -> None:
        self.deferred, self.number, self.steps, self.title = backend.deferred, number, steps, title
        self.known: Mapping[str, float] | None = None
        self.times: list[float] = []
        self.eager_s = 0.0
        self.is_compiled = backend.compiles
        self.decided = noted if isinstance(noted, bool) else None
        self.ranks = backend.ranks
        if self.deferred is None:
            self.decided = backend.compiles
            return
        self.deferred.is_on = False
        self.path = _path(config, number, backend)
        self.known = _known(self.path)
        if self.decided:
            self._turn_on("as this phase was trained so far")

    def see(self, done: int, seconds: float) -> None:
        """Take in what step `done` took; after some the decision is made."""
        if self.deferred is None or not self.deferred.functions:
            return
        if (self.is_compiled and len(self.times) < MOST) or self.decided is None:
            self.times.append(seconds)
        if self.decided is None and (done == DECIDES_AFTER or (done > DECIDES_AFTER and len(self.times) > 1)):
            self.decided, self.eager_s, self.times = False, min(self.times[-2:]), []
            saves_s, takes_s = self._saves(self.eager_s, self.steps - done), self._takes()
            if self.ranks.from_main(f"compile phase {self.number}", saves_s > takes_s):
                self._turn_on(f"takes about {takes_s:.0f} s and saves {saves_s:.0f}")

    def note(self) -> dict[str, Any]:
        """What a checkpoint says."""
        return {} if self.decided is None else {"compiled": self.is_compiled}

    def finish(self) -> None:
        """Leave what was measured for the next phase like this one; a disk that refuses costs that alone."""
        eager_s = self.known["eager_s"] if self.known is not None else self.eager_s
        if not self.is_compiled or self.deferred is None or len(self.times) < SETTLES_AFTER or not eager_s:
            return
        usual = statistics.median(self.times[SETTLES_AFTER // 2 :])
        took = math.fsum(seconds - usual for seconds in self.times if seconds > SLOW * usual)
        found = {"cold_s": took} if self.known is None else {"cold_s": self.known["cold_s"], "warm_s": took}
        with suppress(UserError):
            write_atomic(self.path, json.dumps({"eager_s": eager_s, "compiled_s": usual, **found}).encode())

    def _saves(self, eager_s: float, steps: int) -> float:
        """Seconds that compiling saves over `steps` steps."""
        gain = (
            GAIN.get(self.number, 0.0) if self.known is None else 1 - self.known["compiled_s"] / self.known["eager_s"]
        )
        return gain * eager_s * steps

    def _takes(self) -> float:
        """Seconds that compiling takes."""
        if self.known is None:
            return COLD_S.get(self.number, 0.0)
        return float(self.known.get("warm_s", WARM * self.known["cold_s"]))

    def _turn_on(self, why: str) -> None:
        assert self.deferred is not None
        problem = self.deferred.turn_on()
        self.is_compiled = self.decided = not problem
        how = f"compiled from here on, {why}" if not problem else f"would be compiled ({why}), but cannot: {problem}"
        print(f"{self.title}: {how}; compile=on or compile=off decides otherwise", flush=True)


def _path(config: Config, number: int, backend: Backend) -> Path:
    """The file of the figures: a name for everything that the compiled code depends on."""
    settings = {name: asdict(getattr(config, name)) for name in SETTINGS}
    phase = config.phase(number) if number else config.decoder
    content = {
        **settings,
        "phase": [number, phase.batch_size, phase.micro_batch, phase.recompute],
        "machine": [torch.__version__, torch.backends.cpu.get_cpu_capability(), torch.get_num_threads()],
        "how": [backend.precision, compiling.operations()],
    }
    return compiling.cache_folder() / f"fastdreamer-{digest(content)[:16]}.json"


def _known(path: Path) -> Mapping[str, float] | None:
    """The figures that are there, if they are whole and sensible."""
    found = read_loosely(path)
    if found is None or fault(found, FIGURES) or min(found["eager_s"], found["compiled_s"]) <= 0:
        return None
    return found
