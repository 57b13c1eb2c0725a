"""`--tool nsys`: Nsight Systems around the steps: the GPU's kernels under the named ranges."""

from __future__ import annotations

import csv
import io
import shlex
import shutil
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from fastdreamer.errors import UserError
from fastdreamer.system.advice import shell
from fastdreamer.tools.profiling.profiled_work import ProfiledSteps, profiled_steps

APT = ("apt-get", "install", "nsight-systems-cli")
INSTALL = f"install Nsight Systems from its web page, or from NVIDIA's package source: {shell(*APT)}"
REPORTS = {"kernels": "cuda_gpu_kern_sum", "ranges": "nvtx_sum"}
TOP = 10


def command(program: str, words: Sequence[str], file: Path) -> list[str]:
    """nsys on `fastdreamer WORDS`; it records from cudaProfilerStart to cudaProfilerStop, so the active steps alone."""
    options = [
        "--capture-range=cudaProfilerApi",
        "--capture-range-end=stop",
        "--trace=cuda,nvtx,osrt",
        "--cuda-graph-trace=node",  # the kernels of a captured rollout one by one
        "--force-overwrite=true",
        "-o",
        str(file.with_suffix("")),
    ]
    return [program, "profile", *options, sys.executable, "-m", "fastdreamer", *words]


def record(words: Sequence[str], file: Path) -> dict[str, Any]:
    """Prints the command, runs it, and sums up what it wrote.

    Raises:
        UserError: if nsys is not installed, there is no GPU, or it fails.
    """
    program = shutil.which("nsys")
    if program is None:
        raise UserError(f"nsys is not on the PATH: {INSTALL}")
    if not has_gpu():
        raise UserError(
            "nsys shows what a GPU does, and torch sees none here: use --tool torch or pyspy; "
            "--print-command prints the line for another machine"
        )
    line = command(program, words, file)
    print(shlex.join(line), flush=True)
    done = subprocess.run(line, check=False)
    if done.returncode or not file.is_file():
        raise UserError(f"nsys ended with exit code {done.returncode} and {'a' if file.is_file() else 'no'} {file}")
    tables = {name: summary(program, report, file) for name, report in REPORTS.items()}
    return tables | {"command": shlex.join(line), "files": {"report (open it in nsys-ui)": file}}


def summary(program: str, report: str, file: Path) -> list[dict[str, str]]:
    """The first rows of one of `nsys stats`' reports: share of the time, milliseconds, calls, name."""
    stats = [program, "stats", "--report", report, "--format", "csv", "--force-export=true", str(file)]
    text = subprocess.run(stats, capture_output=True, text=True, check=False).stdout
    lines = text.splitlines()
    start = next((i for i, line in enumerate(lines) if line.startswith("Time (%)")), len(lines))
    names = ("Name", "Range")
    rows = []
    for row in csv.DictReader(io.StringIO("\n".join(lines[start:]))):
        name = next((row[key] for key in names if row.get(key)), "")
        calls = row.get("Instances") or row.get("Num Calls") or ""
        total = float(row.get("Total Time (ns)") or 0)
        rows.append({"share": f"{row['Time (%)']} %", "ms": f"{total / 1e6:.3f}", "calls": calls, "name": name[:90]})
    return rows[:TOP]


def bare(work: ProfiledSteps, warmup: int, steps: int) -> dict[str, Any]:
    """The steps under no profiler of ours; on a GPU between cudaProfilerStart and -Stop, with NVTX ranges.

    Returns:
        step_ms: median.
    """
    profiled_steps(work, warmup)
    if work.device.type != "cuda":
        return {"step_ms": 1e3 * statistics.median(profiled_steps(work, steps))}
    torch.cuda.profiler.start()
    try:
        with torch.autograd.profiler.emit_nvtx():
            seconds = profiled_steps(work, steps)
    finally:
        torch.cuda.profiler.stop()
    return {"step_ms": 1e3 * statistics.median(seconds)}


def has_gpu() -> bool:
    """Whether torch sees one."""
    return torch.cuda.is_available()
