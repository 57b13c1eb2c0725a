"""What the machine is and what it can do: versions, commit, copy bandwidth, matrix rate."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import re
import statistics
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from bench.timing import Arm, cuda_seconds, paired

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
        "processor": _processor(),
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


def run_python(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Another process of this interpreter, with the same search path."""
    path = {"PYTHONPATH": os.pathsep.join(folder for folder in sys.path if folder)}
    command = [sys.executable, *words]
    return subprocess.run(command, env=os.environ | path | environment, capture_output=True, text=True, check=False)


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


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
