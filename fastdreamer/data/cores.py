"""How many cores this process may use: a container, taskset or a batch system may give it fewer than there are."""

from __future__ import annotations

import os


def count_cores() -> int:
    """Cores of this process's own set; what PYTHON_CPU_COUNT says, where Python knows it."""
    if hasattr(os, "process_cpu_count"):
        return os.process_cpu_count() or 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
