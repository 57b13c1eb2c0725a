"""`--tool torch`: operators and named ranges by torch.profiler; the trace opens in Perfetto."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torch._C._autograd import DeviceType
from torch._C._profiler import _ExperimentalConfig
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile, schedule

from fastdreamer.system.files import write_atomic
from fastdreamer.system.ranges import RANGES
from fastdreamer.tools.profiling.profiled_work import ProfiledSteps, profiled_steps
from fastdreamer.tools.profiling.timeline import ranges_around, step_picture

TOP = 10
STEP = "ProfilerStep"


def recorder(work: ProfiledSteps, steps: int, shapes: bool = False, memory: bool = False) -> profile:
    """A profiler that warms up for one step and records `steps`: all threads, or with `memory` the one that steps."""
    return profile(
        activities=[ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (work.device.type == "cuda"),
        schedule=schedule(wait=0, warmup=1, active=steps, repeat=1),
        record_shapes=shapes,
        profile_memory=memory,
        # Of all threads torch notes no allocations.
        experimental_config=_ExperimentalConfig(profile_all_threads=not memory),
    )


def trace(work: ProfiledSteps, warmup: int, steps: int, stem: Path, shapes: bool = False) -> dict[str, Any]:
    """Profiles `steps` steps after `warmup` plain ones; writes STEM.json.gz, and the last step's picture as STEM.svg.

    Returns:
        step_ms (median of the plain steps but for the first), profiled_step_ms, and two tables: `ranges` (inclusive;
        their share of a profiled step) and `operators` (by time of their own, without what they call).
    """
    plain = profiled_steps(work, warmup)
    with recorder(work, steps, shapes) as profiler:
        seconds = sum(profiled_steps(work, 1 + steps, after=profiler.step)[1:])
    trace_file, picture = stem.with_suffix(".json.gz"), stem.with_suffix(".svg")
    profiler.export_chrome_trace(str(trace_file))
    events = [e for e in profiler.events() or () if e.device_type == DeviceType.CPU]
    last = max((e.time_range for e in events if e.name.startswith(STEP)), key=lambda t: t.start)
    write_atomic(picture, step_picture(events, last.start, last.end, f"{work.name}: {work.about}").encode())
    return {
        "step_ms": 1e3 * statistics.median(plain[1:] or plain),
        "profiled_step_ms": 1e3 * seconds / steps,
        "ranges": range_table(events, steps, seconds),
        "operators": operator_table(profiler.key_averages(), steps, on_gpu=work.device.type == "cuda"),
        "files": {"trace (open it at https://ui.perfetto.dev)": trace_file, "picture of a step": picture},
    }


def range_table(events: Iterable[FunctionEvent], steps: int, seconds: float) -> list[dict[str, Any]]:
    """Milliseconds a step inside each range and the ranges around it, in order of their first appearance.

    Ranges of other threads are marked: they go on beside the step.
    """
    main = next((e.thread for e in events if e.name.startswith(STEP)), None)
    host: dict[str, float] = defaultdict(float)
    gpu: dict[str, float] = defaultdict(float)
    for event in sorted(events, key=lambda e: e.time_range.start):
        if event.name in RANGES:
            path = " > ".join([*reversed(ranges_around(event)), event.name])  # such as draw > rollout > denoise
            path += "" if event.thread == main else " (another thread)"
            host[path] += event.time_range.elapsed_us()
            gpu[path] += event.device_time_total
    has_gpu = any(gpu.values())
    return [
        {"range": path, "ms": us / 1e3 / steps, "share": us / 1e6 / seconds if seconds else 0.0}
        | ({"gpu_ms": gpu[path] / 1e3 / steps} if has_gpu else {})
        for path, us in host.items()
    ]


def operator_table(averages: Iterable[Any], steps: int, on_gpu: bool = False) -> list[dict[str, Any]]:
    """The operators with the most time of their own: the GPU's where there is one, else the host's."""
    column = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    rows = [a for a in averages if a.key not in RANGES and not a.key.startswith(STEP)]
    total = sum(getattr(a, column) for a in rows) or 1.0
    rows.sort(key=lambda a: -getattr(a, column))
    return [
        {
            "operator": a.key,
            "ms": getattr(a, column) / 1e3 / steps,
            "share": getattr(a, column) / total,
            "calls": a.count / steps,
        }
        for a in rows[:TOP]
    ]
