"""A picture of memory over time: bytes stacked by the named range that allocated them."""

from __future__ import annotations

from collections import Counter
from html import escape

from fastdreamer.tools.profiling.blocks import Timeline

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 960, 420, 70, 230, 44, 48
MIB = 2**20
COLOURS = ("#4269d0", "#efb118", "#ff725c", "#6cc5b0", "#3ca951", "#ff8ab7", "#a463f2")
REST = "#9498a0"


def memory_picture(timeline: Timeline, title: str) -> str:
    """An SVG of its own. Origins are grouped by what stands before their colon; the largest have a colour each."""
    grouped: list[Counter[str]] = []
    for state in timeline.held:
        groups: Counter[str] = Counter()
        for by, size in state.items():
            groups[by.partition(":")[0]] += size
        grouped.append(groups)
    most: Counter[str] = Counter()
    for groups in grouped:
        for name, size in groups.items():
            most[name] = max(most[name], size)
    names = [name for name, _ in most.most_common(len(COLOURS))]
    colours = dict(zip(names, COLOURS, strict=False)) | ({"others": REST} if len(most) > len(names) else {})
    end = timeline.times_ms[-1] if timeline.times_ms else 1.0
    top = max((sum(groups.values()) for groups in grouped), default=0) * 1.08 or 1.0
    inner_width, inner_height = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def x(ms: float) -> float:
        return LEFT + ms / (end or 1.0) * inner_width

    def y(size: float) -> float:
        return TOP + (1 - size / top) * inner_height

    parts = [f'<text x="{LEFT}" y="22" class="title">{escape(title)}</text>']
    for tick in ticks(top / MIB):
        parts.append(f'<path d="M{LEFT} {y(tick * MIB):.1f}H{WIDTH - RIGHT}" class="grid"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y(tick * MIB) + 4:.1f}" text-anchor="end">{tick:g}</text>')
    for tick in ticks(end):
        parts.append(f'<text x="{x(tick):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{tick:g}</text>')
    base = [0.0] * len(grouped)
    for name, colour in colours.items():
        sizes = [
            float(groups[name]) if name != "others" else float(sum(s for n, s in groups.items() if n not in colours))
            for groups in grouped
        ]
        above = [low + size for low, size in zip(base, sizes, strict=True)]
        outline = [*zip(timeline.times_ms, above, strict=True), *reversed([*zip(timeline.times_ms, base, strict=True)])]
        path = "L".join(f"{x(ms):.1f} {y(size):.1f}" for ms, size in outline)
        parts.append(f'<path d="M{path}Z" fill="{colour}"/>' if path else "")
        base = above
    for place, (name, colour) in enumerate(colours.items()):
        row = TOP + 20 * place
        parts.append(f'<rect x="{WIDTH - RIGHT + 20}" y="{row}" width="12" height="12" fill="{colour}"/>')
        parts.append(f'<text x="{WIDTH - RIGHT + 38}" y="{row + 11}">{escape(name)}</text>')
    if timeline.times_ms:
        at = x(timeline.times_ms[timeline.peak])
        parts.append(f'<path d="M{at:.1f} {TOP}V{HEIGHT - BOTTOM}" class="peak"/>')
        words = f"peak {timeline.peak_bytes / MIB:.1f} MiB"
        parts.append(f'<text x="{min(at + 5, WIDTH - RIGHT - 90):.1f}" y="{TOP - 5}">{words}</text>')
    middle = LEFT + inner_width / 2
    parts.append(f'<text x="{middle:.0f}" y="{HEIGHT - 8}" text-anchor="middle">milliseconds</text>')
    parts.append(f'<text x="16" y="{TOP - 5}">MiB</text>')
    style = (
        "text{font:13px sans-serif;fill:#222}.title{font-size:15px;font-weight:bold}"
        ".grid{stroke:#ddd}.peak{stroke:#222;stroke-dasharray:4 3}"
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}">'
        f'<style>{style}</style><rect width="100%" height="100%" fill="#fff"/>{"".join(parts)}</svg>\n'
    )


def ticks(top: float) -> list[float]:
    """Round numbers from 0 to `top`, at most seven."""
    step = 10.0 ** len(str(int(top)))
    while top / step < 3:
        step /= 2 if str(step).strip("0.")[0] in "1" else 2.5 if str(step).strip("0.")[0] == "5" else 2
    return [step * i for i in range(int(top / step) + 1)]
