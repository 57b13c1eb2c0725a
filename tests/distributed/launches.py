"""Launches of torchrun for tests: started, waited for, and looked after; nothing of them may stay."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from fastdreamer.config import load_config
from fastdreamer.latents.synthetic import write_synthetic_store
from fastdreamer.recordings.actions import action_space

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
SETTINGS = (
    "precision=fp32", "compile=off", "device=cpu", "data.recordings=/nonexistent", "phase1.log_every=1",
    "ranks.check_every=1", "ranks.timeout_s=60",
)  # fmt: skip
LIMIT_S = 240


def new_run(run: Path) -> Path:
    """A run of the debug preset with a made-up store."""
    config = load_config("debug")
    write_synthetic_store(run / "store", config.tokenizer.clock, action_space(config.data.env), 6, 24, seed=0)
    return run


def torchrun(ranks: int, *words: str, restarts: int = 0) -> list[str]:
    """The command that starts so many ranks of a script."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    return [*launch, "--max-restarts", str(restarts), *words]


def environment(**more: str) -> dict[str, str]:
    path = os.pathsep.join(str(ROOT / name) for name in (".", "kernels", "engines"))
    return os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "TORCH_CPP_LOG_LEVEL": "ERROR"} | more


@dataclass
class Ended:
    """What came of a launch: its exit code, what it printed, and the seconds that it took."""

    status: int
    out: str
    err: str
    seconds: float

    @property
    def errors(self) -> list[str]:
        """Our own lines of what went wrong, without what torchrun says about it."""
        return [line for line in self.err.splitlines() if line.startswith("fastdreamer: ")]


class Launch:
    """`fastdreamer train` for phase 1 under torchrun, with a fault (see `faulty`) or without."""

    def __init__(self, run: Path, *words: str, ranks: int = 2, fault: str = "", restarts: int = 0, slow_s: float = 0):
        if fault.partition(":")[0] in ("hang", "freeze"):
            words = *words, "ranks.timeout_s=5"
        command = ["train", "--config", "debug", "--run-dir", str(run), "--phase", "1", *SETTINGS, *words]
        self.run, self.began = run, time.monotonic()
        self.began_at = run.with_suffix(".began")  # steps done when the main rank began, a line a start
        self.out, self.err = run.with_suffix(".out"), run.with_suffix(".err")
        told = {"FAULT": fault or "none:0:0", "SLOW_S": str(slow_s), "BEGAN": str(self.began_at)}
        with self.out.open("w") as out, self.err.open("w") as err:
            self.process = subprocess.Popen(
                torchrun(ranks, str(HERE / "faulty.py"), *command, restarts=restarts),
                stdout=out, stderr=err, env=environment(**told), cwd=ROOT,
            )  # fmt: skip

    def trains(self, step: int = 1) -> None:
        """Waits until so many steps are logged."""
        metrics, until = self.run / "metrics.jsonl", time.monotonic() + LIMIT_S
        while time.monotonic() < until and self.process.poll() is None:
            if metrics.exists() and len(metrics.read_text().splitlines()) >= step:
                return
            time.sleep(0.02)
        raise AssertionError(f"no step {step}: {self.err.read_text()}")

    def workers(self) -> list[int]:
        """The processes of the ranks."""
        return sorted(pid for pid in alive(self.run) if pid != self.process.pid)

    def end(self) -> Ended:
        """Waits for the end; none of its processes may stay."""
        status = self.process.wait(LIMIT_S)
        seconds = time.monotonic() - self.began
        until = time.monotonic() + 40
        while (left := alive(self.run)) and time.monotonic() < until:
            time.sleep(0.1)
        assert not left, f"left running: {left}"
        return Ended(status, self.out.read_text(), self.err.read_text(), seconds)


def alive(run: Path) -> list[int]:
    """The processes that have a run directory among their words."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
            is_zombie = (folder / "stat").read_text().rpartition(")")[2].split()[0] in "ZX"
        except OSError:
            continue
        if str(run).encode() in words and not is_zombie:
            found.append(int(folder.name))
    return found


@contextmanager
def launched(run: Path, *words: str, **more: object) -> Iterator[Launch]:
    """A launch that is killed if the test fails."""
    launch = Launch(run, *words, **more)  # type: ignore[arg-type]
    try:
        yield launch
    finally:
        for pid in alive(run):
            os.kill(pid, 9)


def ended(run: Path, *words: str, **more: object) -> Ended:
    """What came of a launch that ends by itself."""
    with launched(run, *words, **more) as launch:
        return launch.end()
