"""The machine itself: Python, GPUs, compilers, memory, cores, disk and the environment. Nothing is imported for it."""

from __future__ import annotations

import math
import os
import platform
import shutil
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from fastdreamer.system.cores import MEMINFO, control_groups, kernel_bytes, quota
from fastdreamer.tools.doctor.ask import Component
from fastdreamer.tools.doctor.requirements import accepts, in_front_of_python

GIB = 2**30
LEAST_MEMORY = 2 * GIB
"""The demo's processes together stay below it."""
LEAST_DISK = GIB
COMPILERS = {"C++": ("CXX", "g++", "clang++"), "C": ("CC", "gcc", "clang")}
"""Compilers, as `fastdreamer.device` looks for them."""


@dataclass(frozen=True)
class Gpu:
    """What the driver says of a GPU."""

    name: str
    mib: int
    driver: str
    capability: str

    def __str__(self) -> str:
        return f"{self.name}, {self.mib / 1024:.1f} GiB, compute capability {self.capability}, driver {self.driver}"


def python_part(versions: str) -> Component:
    """The Python interpreter and its version."""
    found = f"{platform.python_version()} in {sys.prefix}"
    if accepts(versions, platform.python_version()):
        return Component("Python", found)
    return Component("Python", found, "wrong", f"make an environment with Python {versions}")


def driver_gpus() -> tuple[Gpu, ...]:
    """The NVIDIA GPUs that the driver knows, whatever torch can use."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return ()
    query = [program, "--query-gpu=name,memory.total,driver_version,compute_cap", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(query, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ()
    gpus = []
    for line in done.stdout.splitlines() if done.returncode == 0 else ():
        fields = [field.strip() for field in line.split(",")]
        if len(fields) == 4 and fields[1].isdigit():
            gpus.append(Gpu(fields[0], int(fields[1]), fields[2], fields[3]))
    return tuple(gpus)


def compiler_part(kind: str) -> Component:
    """A compiler for torch.compile and its engines; C is for a GPU's, where Triton starts every kernel with it."""
    variable, *names = COMPILERS[kind]
    named = os.environ.get(variable, "").split()
    found = next((path for name in (*named[:1], *names) if (path := shutil.which(name))), None)
    if found:
        return Component(f"{kind} compiler", found)
    otherwise = "" if kind == "C" else "; or use compile=off"
    return Component(
        f"{kind} compiler", "none", "missing", f"install {names[0]} or name one with {variable}{otherwise}"
    )


def memory_part() -> Component:
    """RAM, and the limit of the container or session if there is one."""
    total, free = kernel_bytes(MEMINFO, "MemTotal"), kernel_bytes(MEMINFO, "MemAvailable")
    if not total:
        return Component("memory", "unknown: there is no /proc/meminfo")
    most = total
    for group, name in product(control_groups("memory"), ("memory.max", "memory.limit_in_bytes")):
        with suppress(OSError, ValueError):  # "max" is no number, and no limit
            most = min(most, int((group / name).read_text(encoding="ascii")) or total)
    found = f"{total / GIB:.1f} GiB, {free / GIB:.1f} GiB free"
    found += f", of which {most / GIB:.1f} GiB may be used here (cgroup)" if most < total else ""
    if most >= LEAST_MEMORY:
        return Component("memory", found)
    return Component("memory", found, "wrong", f"give it {LEAST_MEMORY // GIB} GiB or more")


def cores_part() -> Component:
    """Cores that this process may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    found = f"{cores} of {os.cpu_count() or cores}"
    found += f", time of {quota():g} (cgroup)" if quota() < math.inf else ""
    threads = os.environ.get("OMP_NUM_THREADS")
    return Component("cores", found + (f", OMP_NUM_THREADS={threads}" if threads else ""))


def disk_part(folder: Path) -> Component:
    """Room where runs go: in the folder, or in the nearest one above that is there."""
    there = folder.absolute()
    while not there.exists() and there != there.parent:
        there = there.parent
    try:
        usage = shutil.disk_usage(there)
    except OSError as error:
        return Component("disk for runs", f"{there}: {error.strerror}", "wrong", "name another folder with --run-dir")
    found = f"{usage.free / GIB:.1f} of {usage.total / GIB:.1f} GiB free in {there}"
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        return Component(
            "disk for runs", f"{there} cannot be written to", "wrong", "name another folder with --run-dir"
        )
    if usage.free < LEAST_DISK:
        return Component("disk for runs", found, "wrong", "free space, or name another folder with --run-dir")
    return Component("disk for runs", found)


def standard_library_part() -> Component:
    """Modules of Python itself that a file of the user's hides."""
    hidden = in_front_of_python()
    if not hidden:
        return Component("standard library", "nothing hides it")
    found = f"hidden by {', '.join(map(str, hidden))}"
    return Component("standard library", found, "wrong", "rename it, or start elsewhere")


def python_path_part() -> Component:
    """PYTHONPATH and what is odd about it; what it really hides is said of the library that is hidden."""
    text = os.environ.get("PYTHONPATH")
    if not text:
        return Component("PYTHONPATH", "not set")
    entries = text.split(os.pathsep)
    said = [f"{len(entries)} entr{'y' if len(entries) == 1 else 'ies'}"]
    said += ["an empty one, which is the current folder"] if "" in entries else []
    said += (
        ["relative ones, which mean something else in another folder"]
        if any(e and not os.path.isabs(e) for e in entries)
        else []
    )
    said += [f"{entry} does not exist" for entry in dict.fromkeys(entries) if entry and not Path(entry).exists()]
    return Component("PYTHONPATH", "; ".join(said))


def interpreter_part() -> Component:
    """Triton's interpreter, which is for tests."""
    value = os.environ.get("TRITON_INTERPRET", "0")
    if value in ("", "0"):
        return Component("TRITON_INTERPRET", "not set")
    return Component(
        "TRITON_INTERPRET", f"{value}: kernels run in Python, which is for tests", "wrong", "unset TRITON_INTERPRET"
    )
