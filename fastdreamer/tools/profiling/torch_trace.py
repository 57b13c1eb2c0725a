"""`--tool torch`: operators and named ranges by torch.profiler; the trace opens in Perfetto."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from torch._C._autograd import DeviceType
from torch._C._profiler import _ExperimentalConfig
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile, schedule

from fastdreamer.plotting.svg import COLOURS, REST, Plot, ticks
from fastdreamer.system.files import write_atomic
from fastdreamer.system.ranges import RANGES
from fastdreamer.tools.profiling.profiled_work import ProfiledSteps, profiled_steps

WIDTH, LEFT, RIGHT, ABOVE, ROW, BOTTOM = 1100, 130, 20, 40, 26, 44
NARROWEST = 0.3  # pixels; operators closer to one another are drawn as one
CHARACTER = 7.2  # pixels of a letter, about


def step_picture(events: Iterable[FunctionEvent], first_us: float, last_us: float, title: str) -> str:
    """An SVG of what happened between two times; a thread with ranges or operators has its rows, the main one first."""
    threads: dict[int, list[FunctionEvent]] = defaultdict(list)
    for event in sorted(events, key=lambda e: e.time_range.start):
        is_ours = event.name in RANGES or not event.is_user_annotation
        if is_ours and event.time_range.end > first_us and event.time_range.start < last_us:
            threads[event.thread].append(event)
    names = list(dict.fromkeys(e.name for found in threads.values() for e in found if e.name in RANGES))
    colours = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(names)}
    plot = Plot(WIDTH, 0, LEFT, RIGHT, ABOVE, BOTTOM, (first_us, last_us))
    plot.text(LEFT, 20, title, "title")
    top = ABOVE
    for place, (_, found) in enumerate(sorted(threads.items(), key=lambda item: -_ranged_us(item[1]))):
        ranges = [(len(ranges_around(e)), e) for e in found if e.name in RANGES]
        depths = 1 + max((depth for depth, _ in ranges), default=-1)
        plot.text(LEFT - 8, top + 16, "this thread" if place == 0 else "another thread", anchor="end")
        for depth, event in ranges:
            x, width = _extent(event, plot)
            y = top + ROW * depth
            plot.box(x, y, width, ROW - 3, colours[event.name])
            if width > CHARACTER * len(event.name):
                plot.text(x + 3, y + 16, event.name, "name")
        y = top + ROW * depths
        plot.text(LEFT - 8, y + 12, "operators", anchor="end")
        outermost = [e for e in found if e.name not in RANGES and not _is_operator(e.cpu_parent)]
        for x, width in _merged([_extent(e, plot) for e in outermost]):
            plot.box(x, y + 2, width, ROW - 12, REST)
        top = y + ROW + 8
    for tick in ticks(0.0, (last_us - first_us) / 1e3, 5):
        x = plot.x(first_us + tick * 1e3)
        plot.path(f"M{x:.1f} {ABOVE - 6}V{top}", "grid")
        plot.text(x, top + 16, f"{tick:g}", anchor="middle")
    plot.text((LEFT + WIDTH) / 2, top + 34, "milliseconds", anchor="middle")
    plot.height = top + BOTTOM
    return plot.file("text{font-size:12px}.name{fill:#fff}.grid{stroke:#0003;stroke-dasharray:2 3}")


def _ranged_us(events: Sequence[FunctionEvent]) -> float:
    return float(sum(e.time_range.elapsed_us() for e in events if e.name in RANGES))


def _extent(event: FunctionEvent, plot: Plot) -> tuple[float, float]:
    """x and width, cut to the picture."""
    begin, end = max(event.time_range.start, plot.x_range[0]), min(event.time_range.end, plot.x_range[1])
    return plot.x(begin), plot.x(end) - plot.x(begin)


def _merged(boxes: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    out: list[tuple[float, float]] = []
    for x, width in boxes:
        if out and x - sum(out[-1]) < NARROWEST:
            out[-1] = (out[-1][0], max(sum(out[-1]), x + width) - out[-1][0])
        else:
            out.append((x, width))
    return [(x, max(width, NARROWEST)) for x, width in out]


def ranges_around(event: FunctionEvent) -> list[str]:
    """The named ranges that an event lies in, the innermost first."""
    names, above = [], event.cpu_parent
    while above is not None:
        names += [above.name] if above.name in RANGES else []
        above = above.cpu_parent
    return names


def _is_operator(event: FunctionEvent | None) -> bool:
    return event is not None and not event.is_user_annotation


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
