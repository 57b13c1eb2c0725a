"""A picture of one profiled step: its named ranges, nested, and below them when operators ran."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

from torch.autograd.profiler_util import FunctionEvent

from fastdreamer.plotting.svg import COLOURS, REST, Plot, ticks
from fastdreamer.system.ranges import RANGES

WIDTH, LEFT, RIGHT, TOP, ROW, BOTTOM = 1100, 130, 20, 40, 26, 44
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
    plot = Plot(WIDTH, 0, LEFT, RIGHT, TOP, BOTTOM, (first_us, last_us))
    plot.text(LEFT, 20, title, "title")
    top = TOP
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
        plot.path(f"M{x:.1f} {TOP - 6}V{top}", "grid")
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
