"""A picture of one profiled step: its named ranges, nested, and below them when operators ran."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from html import escape

from torch.autograd.profiler_util import FunctionEvent

from fastdreamer.system.ranges import RANGES
from fastdreamer.tools.profiling.svg_picture import COLOURS, ticks

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
    scale = (WIDTH - LEFT - RIGHT) / (last_us - first_us)
    parts = [f'<text x="{LEFT}" y="20" class="title">{escape(title)}</text>']
    top = TOP
    for place, (_, found) in enumerate(sorted(threads.items(), key=lambda item: -_ranged_us(item[1]))):
        ranges = [(_depth(e), e) for e in found if e.name in RANGES]
        depths = 1 + max((depth for depth, _ in ranges), default=-1)
        who = "this thread" if place == 0 else "another thread"
        parts.append(f'<text x="{LEFT - 8}" y="{top + 16}" text-anchor="end">{who}</text>')
        for depth, event in ranges:
            x, width = _extent(event, first_us, last_us, scale)
            y, colour = top + ROW * depth, colours[event.name]
            parts.append(f'<rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="{ROW - 3}" fill="{colour}"/>')
            if width > CHARACTER * len(event.name):
                parts.append(f'<text x="{x + 3:.1f}" y="{y + 16}" class="name">{escape(event.name)}</text>')
        y = top + ROW * depths
        parts.append(f'<text x="{LEFT - 8}" y="{y + 12}" text-anchor="end">operators</text>')
        outermost = [e for e in found if e.name not in RANGES and not _is_operator(e.cpu_parent)]
        for x, width in _merged([_extent(e, first_us, last_us, scale) for e in outermost]):
            parts.append(f'<rect x="{x:.1f}" y="{y + 2}" width="{width:.1f}" height="{ROW - 12}" fill="#9498a0"/>')
        top = y + ROW + 8
    for tick in ticks((last_us - first_us) / 1e3):
        x = LEFT + tick * 1e3 * scale
        parts.append(f'<path d="M{x:.1f} {TOP - 6}V{top}" class="grid"/>')
        parts.append(f'<text x="{x:.1f}" y="{top + 16}" text-anchor="middle">{tick:g}</text>')
    parts.append(f'<text x="{(LEFT + WIDTH) / 2:.0f}" y="{top + 34}" text-anchor="middle">milliseconds</text>')
    height = top + BOTTOM
    style = (
        "text{font:12px sans-serif;fill:#222}.title{font-size:15px;font-weight:bold}.name{fill:#fff}"
        ".grid{stroke:#0003;stroke-dasharray:2 3}"
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}">'
        f'<style>{style}</style><rect width="100%" height="100%" fill="#fff"/>{"".join(parts)}</svg>\n'
    )


def _ranged_us(events: Sequence[FunctionEvent]) -> float:
    return float(sum(e.time_range.elapsed_us() for e in events if e.name in RANGES))


def _extent(event: FunctionEvent, first_us: float, last_us: float, scale: float) -> tuple[float, float]:
    """x and width, cut to the picture."""
    begin, end = max(event.time_range.start, first_us), min(event.time_range.end, last_us)
    return LEFT + (begin - first_us) * scale, (end - begin) * scale


def _merged(boxes: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    out: list[tuple[float, float]] = []
    for x, width in boxes:
        if out and x - sum(out[-1]) < NARROWEST:
            out[-1] = (out[-1][0], max(sum(out[-1]), x + width) - out[-1][0])
        else:
            out.append((x, width))
    return [(x, max(width, NARROWEST)) for x, width in out]


def _depth(event: FunctionEvent) -> int:
    depth, above = 0, event.cpu_parent
    while above is not None:
        depth += above.name in RANGES
        above = above.cpu_parent
    return depth


def _is_operator(event: FunctionEvent | None) -> bool:
    return event is not None and not event.is_user_annotation
