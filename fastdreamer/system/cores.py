"""How many cores this process may use: a container may give it fewer than there are, and others may be at work."""

from __future__ import annotations

import math
import os
import re
import time
from dataclasses import dataclass
from pathlib import Path

MEMINFO = Path("/proc/meminfo")
CGROUPS, OWN_GROUP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
STAT = Path("/proc/stat")
LEAST_S = 0.2  # the kernel counts in hundredths of a second


def count_cores() -> int:
    """Cores of this process's own set (or PYTHON_CPU_COUNT), or fewer where a container has less time than they."""
    return max(1, math.ceil(min(_own_set(), quota())))


@dataclass(frozen=True)
class Clock:
    """Seconds of processor time so far: of everybody at work on this process's cores, and its own; and the time."""

    everybody: float
    own: float
    at: float

    @classmethod
    def now(cls) -> Clock:
        """Read the clocks. Who runs with low priority gives way and is not counted; nor is anybody but on Linux."""
        ticks, cores = 0, os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
        for line in _text(STAT).splitlines():
            name, *counts = line.split()
            if name.startswith("cpu") and name[3:].isdigit() and int(name[3:]) in cores:
                user, _, system, _, _, *interrupts = map(int, counts[:8])
                ticks += user + system + sum(interrupts)
        times = os.times()
        own = times.user + times.system + times.children_user + times.children_system
        return cls(ticks / os.sysconf("SC_CLK_TCK"), own, time.monotonic())

    def spare_cores(self) -> int:
        """The cores that others left free since this reading, at least one; waits where it was just now."""
        time.sleep(max(0.0, LEAST_S - (time.monotonic() - self.at)))
        later = Clock.now()
        others = (later.everybody - self.everybody - (later.own - self.own)) / (later.at - self.at)
        free = min(_own_set() - max(0.0, others), quota())
        return max(1, min(count_cores(), round(free)))


started: Clock | None = None
"""The reading with which the command line began; None in a library, whose threads are its own user's."""


def _own_set() -> int:
    if hasattr(os, "process_cpu_count"):
        return os.process_cpu_count() or 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def quota() -> float:
    """Cores' worth of time that the control groups of this process leave it; infinite where they say nothing.

    Source: docs.kernel.org, cgroup-v2 (cpu.max) and CFS bandwidth control of version 1 (cpu.cfs_quota_us).
    """
    return min(map(_share, control_groups("cpu")))


def control_groups(controller: str) -> list[Path]:
    """The folders of this process's control groups and of those above them, of both versions."""
    groups = [CGROUPS, CGROUPS / controller]
    for line in _text(OWN_GROUP).splitlines():
        _, controllers, path = (line.split(":", 2) + ["", ""])[:3]
        own = Path(path.lstrip("/"))
        if ".." not in own.parts and (not controllers or controller in controllers.split(",")):
            root = CGROUPS / controller if controllers else CGROUPS
            groups += [root / folder for folder in (own, *own.parents)]
    return groups


def kernel_bytes(file: Path, name: str) -> int:
    """Bytes that a line of /proc/meminfo or of a process's status says; 0 where there is none."""
    found = re.search(rf"^{name}:\s*(\d+)", _text(file), re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


def _share(group: Path) -> float:
    """Microseconds of running in a period, by the period."""
    words = _text(group / "cpu.max").split()
    words = words or [_text(group / f"cpu.cfs_{kind}_us").strip() for kind in ("quota", "period")]
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
