"""Timing that survives a shared machine: paired ratios on a host, CUDA events on a GPU.

And what the machine is and can do: versions, commit, copy bandwidth, matrix rate. Nothing of ours is imported: it can
be asked whatever is broken.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import math
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch


def _nothing() -> None:
    return None


@dataclass(frozen=True)
class Arm:
    """`run` is timed, on what `prepare` gave it, which is not."""

    run: Callable[[Any], Any]
    prepare: Callable[[], Any] = field(default=_nothing)


WAIT_CYCLES, CLOCK_HZ = 4_000_000, 2e9  # about 2 ms on today's GPUs


@dataclass(frozen=True)
class Paired:
    """Ratio of b's time to a's.

    Attributes:
        ratio: median over the pairs.
        error: standard error of that median, relative (1.2533 s / sqrt(n) of the log ratios).
        seconds_a: median time of a call of a; `seconds_b`: of b.
        pairs: how many.
    """

    ratio: float
    error: float
    seconds_a: float
    seconds_b: float
    pairs: int


def paired(a: Arm, b: Arm, pairs: int = 20, target_s: float = 0.02, warmup: int = 2) -> Paired:
    """Times a and b side by side in the order ABBA, so that drift of the machine hits both alike.

    Calls are repeated inside a timing until it takes about `target_s`; on a GPU each timing ends with a synchronise.
    """
    for _ in range(warmup):
        a.run(a.prepare()), b.run(b.prepare())
    inner = max(1, round(target_s / max(1e-9, max(seconds_of(a, 1), seconds_of(b, 1)))))
    first: list[float] = []
    second: list[float] = []
    for _ in range(math.ceil(pairs / 2)):
        first.append(seconds_of(a, inner))
        second.append(seconds_of(b, inner))
        second.append(seconds_of(b, inner))
        first.append(seconds_of(a, inner))
    logs = [math.log(y / x) for x, y in zip(first, second, strict=True)]
    error = 1.2533 * statistics.stdev(logs) / math.sqrt(len(logs)) if len(logs) > 1 else math.inf
    ratio = math.exp(statistics.median(logs))
    return Paired(ratio, error, statistics.median(first), statistics.median(second), len(logs))


def seconds_of(arm: Arm, calls: int) -> float:
    """Seconds of one call, on average, after all of them were prepared."""
    prepared = [arm.prepare() for _ in range(calls)]
    _synchronise()
    began = time.perf_counter()
    for given in prepared:
        arm.run(given)
    _synchronise()
    return (time.perf_counter() - began) / calls


def _synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def cuda_seconds(arm: Arm, is_cold: bool, repeats: int = 50, warmup: int = 10) -> list[float]:
    """Times on the GPU, by events; `is_cold` replaces what the level-2 cache holds before every call.

    A wait on the GPU, longer than the host takes to launch, keeps the host's overhead out of the time.
    """
    device = torch.cuda.current_device()
    cache = torch.cuda.get_device_properties(device).L2_cache_size
    flush = torch.empty(max(4 * cache, 1 << 26), dtype=torch.int8, device="cuda")
    host_s = 0.0
    for _ in range(warmup):
        prepared = arm.prepare()
        torch.cuda.synchronize()
        began = time.perf_counter()
        arm.run(prepared)
        host_s = time.perf_counter() - began
    wait = max(WAIT_CYCLES, int(4 * host_s * CLOCK_HZ))
    marks = []
    for _ in range(repeats):
        prepared = arm.prepare()
        if is_cold:
            flush.sum()  # read, not written: nothing is left to be written back
        torch.cuda._sleep(wait)
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        arm.run(prepared)
        end.record()
        marks.append((start, end))
    torch.cuda.synchronize()
    return [start.elapsed_time(end) / 1e3 for start, end in marks]


VERSIONS = ("torch", "triton", "numpy", "pytest-benchmark")
ROOT = Path(__file__).parents[1]


def machine() -> dict[str, Any]:
    """Hardware, versions and the commit (with a mark where the tree has changes)."""
    gpu: dict[str, Any] = {}
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        major, minor = torch.cuda.get_device_capability(0)
        gpu = {
            "card": properties.name,
            "capability": f"{major}.{minor}",
            "memory_bytes": properties.total_memory,
            "l2_bytes": properties.L2_cache_size,
            "cuda": torch.version.cuda,
        }
    return {
        **gpu,
        "processor": cpu_info().get("model name") or platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "versions": installed_versions(*VERSIONS),
        "commit": _commit(),
    }


def installed_versions(*names: str) -> dict[str, str]:
    """The versions of those packages that are installed."""
    found = {}
    for name in names:
        with suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def run_python(*words: str, quiet: bool = True, **environment: str) -> subprocess.CompletedProcess[str]:
    """Another process of this interpreter, with the same search path; what it prints is kept if it is `quiet`."""
    path = {"PYTHONPATH": os.pathsep.join(folder for folder in sys.path if folder)}
    command = [sys.executable, *words]
    return subprocess.run(command, env=os.environ | path | environment, capture_output=quiet, text=True, check=False)


def slug(text: str) -> str:
    """A name for files: letters and digits, the rest as hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def copy_bandwidth(size_bytes: int, device: str) -> float:
    """Bytes a second of a copy (read and written) of `size_bytes`, median."""
    source = torch.empty(size_bytes, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * size_bytes / _seconds(Arm(lambda _: target.copy_(source)), device)


def matrix_rate(side: int, dtype: torch.dtype, device: str) -> float:
    """FLOP/s of a square matrix product, median."""
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    return 2 * side**3 / _seconds(Arm(lambda _: a @ b), device)


def _seconds(arm: Arm, device: str) -> float:
    if device == "cuda":
        return statistics.median(cuda_seconds(arm, is_cold=True, repeats=20))
    return paired(arm, arm, pairs=6).seconds_a


def _commit() -> str:
    """The checked-out commit, marked where the tree has changes; without git, what FASTDREAMER_COMMIT says."""
    git = ["git", "-C", str(ROOT)]
    try:
        name = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=True)
        changed = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return os.environ.get("FASTDREAMER_COMMIT", "unknown")
    return name.stdout.strip() + ("+changes" if changed.stdout.strip() else "")


def cpu_info() -> dict[str, str]:
    """What Linux says of a processor; empty elsewhere."""
    with suppress(OSError):
        fields = (line.partition(":") for line in Path("/proc/cpuinfo").read_text().splitlines())
        return {name.strip(): value.strip() for name, _, value in fields}
    return {}
