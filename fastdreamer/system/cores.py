"""How many cores this process may use: a container, taskset or a batch system may give it fewer than there are."""

from __future__ import annotations

import math
import os
from pathlib import Path

CGROUPS, OWN_GROUP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def count_cores() -> int:
    """Cores of this process's own set (or PYTHON_CPU_COUNT), or fewer where a container has less time than they."""
    if hasattr(os, "process_cpu_count"):
        cores = os.process_cpu_count() or 1
    else:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min(cores, quota())))


def quota() -> float:
    """Cores' worth of time that the control groups of this process leave it; infinite where they say nothing.

    Source: docs.kernel.org, cgroup-v2 (cpu.max) and CFS bandwidth control of version 1 (cpu.cfs_quota_us).
    """
    groups = [CGROUPS, CGROUPS / "cpu"]
    for line in _text(OWN_GROUP).splitlines():
        _, controllers, path = (line.split(":", 2) + ["", ""])[:3]
        root = CGROUPS if not controllers else CGROUPS / "cpu" if "cpu" in controllers.split(",") else None
        own = Path(path.lstrip("/"))
        groups += (
            [root / folder for folder in (own, *own.parents)] if root is not None and ".." not in own.parts else []
        )
    return min((_share(group) for group in groups), default=math.inf)


def _share(group: Path) -> float:
    """Microseconds of running in a period, by the period."""
    words = _text(group / "cpu.max").split() or [
        _text(group / "cpu.cfs_quota_us").strip(),
        _text(group / "cpu.cfs_period_us").strip(),
    ]
    try:
        running, period = map(float, words)
    except ValueError:  # "max", or there is no such file
        return math.inf
    return running / period if running > 0 and period > 0 else math.inf


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
