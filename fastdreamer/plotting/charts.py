"""Charts of a page: lines, points against a diagonal, intervals; and stacked areas as a file."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from fastdreamer.plotting.html import Html
from fastdreamer.plotting.svg import COLOURS, REST, Plot, extent, ticks, tone

DASH = "5 4"


@dataclass(frozen=True)
class Series:
    """One line: `tone` names a CSS colour (model, better, other, warn, base); `faint` is drawn thin behind it."""

    name: str
    xs: Sequence[float]
    ys: Sequence[float]
    tone: str = "model"
    dashed: bool = False
    faint: Sequence[float] = field(default=())


@dataclass(frozen=True)
class Row:
    """One line of an interval chart: a point estimate, its interval, and the single values behind it, if any."""

    label: str
    mean: float
    low: float
    high: float
    tone: str = "model"
    values: Sequence[float] = field(default=())


def number(value: float) -> str:
    """A number for a reader: about three significant digits, no exponent where none is needed."""
    if not math.isfinite(value):
        return "n/a"
    size = abs(value)
    if size >= 1000:
        return f"{value:,.0f}"
    if size and size < 0.001:
        return f"{value:.1e}"
    if size >= 100:
        return f"{value:.1f}"
    return f"{value:.2f}" if size >= 1 else f"{value:.3g}"


def rounded(value: float) -> str:
    """A number beside its interval: two decimals, so that the three line up; none from 1000 on."""
    if not math.isfinite(value):
        return "n/a"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.2f}"


def between(low: float, high: float) -> str:
    """A range, as `rounded` writes numbers."""
    return f"{rounded(low)} to {rounded(high)}"


def with_interval(mean: float | None, low: float | None, high: float | None, sign: bool = False) -> str:
    """`4.10 [3.80, 4.50]`, with `sign` a plus before a positive estimate; what is no number is a question mark."""
    shown = ["?" if value is None else rounded(value) for value in (mean, low, high)]
    return f"{'+' if sign and mean and mean > 0 else ''}{shown[0]} [{shown[1]}, {shown[2]}]"


def line_chart(
    series: Sequence[Series], x_label: str, width: int = 320, height: int = 180, zero: bool = False,
    direct_labels: bool = False, marks: Sequence[float] = (), label: str = "",
) -> Html:  # fmt: skip
    """Lines over a common x axis.

    Args:
        zero: include 0 on the y axis.
        direct_labels: write each series' name at its right end (wide charts) instead of relying on a legend.
        marks: x values of points to draw as dots (few points are read better so); empty for none.
    """
    xs = [x for s in series for x in s.xs]
    x_range = (min(xs), max(xs)) if len(set(xs)) > 1 else extent(xs)
    y_range = extent([y for s in series for y in (*s.ys, *s.faint)], zero)
    plot = Plot(width, height, 46.0, 186.0 if direct_labels else 12.0, 10.0, 34.0, x_range, y_range)
    plot.grid_y(4 if height > 150 else 3)
    plot.axis_x(x_label, ticks(*x_range, 4 if width < 500 else 12, whole=True))
    for s in series:
        if s.faint:
            plot.line(s.xs, s.faint, "faint", style=f"stroke:var(--{s.tone})")
    for s in reversed(series):  # the first one lies on top
        plot.line(s.xs, s.ys, "line", style=f"stroke:var(--{s.tone})", **{"stroke_dasharray": DASH} if s.dashed else {})
        for x, y in zip(s.xs, s.ys, strict=True):
            if (len(s.xs) == 1 or x in marks) and math.isfinite(y):
                plot.dot(plot.x(x), plot.y(y), 3, "dot", **tone(s.tone))
    if direct_labels:
        ends = [plot.y(next((y for y in reversed(s.ys) if math.isfinite(y)), y_range[0])) for s in series]
        for s, y in zip(series, _spread_labels(ends, 16, plot.top + 6, height - plot.bottom), strict=True):
            plot.text(width - plot.right + 10, y + 4, s.name, "direct", **tone(s.tone))
    return plot.chart(label)


def scatter_chart(
    points: Sequence[tuple[float, float]], x_label: str, y_label: str, width: int = 900, height: int = 340,
    label: str = "",
) -> Html:  # fmt: skip
    """Points (x, y) over a dashed diagonal, on which y is x; both axes have the same bounds."""
    bounds = extent([value for point in points for value in point])
    plot = Plot(width, height, 52.0, 12.0, 22.0, 34.0, bounds, bounds)
    plot.grid_y(5)
    plot.line(bounds, bounds, "reference")
    plot.axis_x(x_label, ticks(*bounds, 5))
    plot.text(plot.left, 12, y_label, "axis-label")
    for x, y in points:
        if math.isfinite(x) and math.isfinite(y):
            plot.dot(plot.x(x), plot.y(y), 2.5, "value", **tone("model"))
    return plot.chart(label)


def interval_chart(
    rows: Sequence[Row], x_label: str, reference: float | None = None, width: int = 980, label: str = ""
) -> Html:
    """Estimates with their intervals, one row each; single values lie behind as small dots.

    Args:
        reference: an x value to compare with, drawn as a dashed vertical line.
    """
    step = 38.0
    shown = [v for r in rows for v in (r.low, r.high, r.mean, *r.values)] + ([] if reference is None else [reference])
    plot = Plot(width, 8.0 + step * len(rows) + 36.0, 180.0, 170.0, 8.0, 36.0, extent(shown))
    plot.axis_x(x_label, ticks(*plot.x_range, 7), has_grid=True)
    if reference is not None:
        plot.path(f"M{plot.x(reference):.1f} {plot.top:.1f}V{plot.height - plot.bottom:.1f}", "reference")
    for place, row in enumerate(rows):
        y = plot.top + step * (place + 0.5)
        style = {"style": f"fill:var(--{row.tone});stroke:var(--{row.tone})"}
        plot.text(plot.left - 14, y + 4.5, row.label, "row-label", "end")
        # A fixed small scatter, so that equal values do not hide one another.
        for i, value in enumerate(filter(math.isfinite, row.values)):
            plot.dot(plot.x(value), y + (i * 7 % 5 - 2) * 2.6, 2, "value", **style)
        if all(map(math.isfinite, (row.low, row.mean, row.high))):
            plot.path(f"M{plot.x(row.low):.1f} {y:.1f}H{plot.x(row.high):.1f}", "interval", **style)
            plot.dot(plot.x(row.mean), y, 5.5, "estimate", **style)
        plot.text(width - plot.right + 12, y + 4.5, with_interval(row.mean, row.low, row.high), "row-value")
    return plot.chart(label)


def stacked_picture(
    xs: Sequence[float], layers: Mapping[str, Sequence[float]], mark: tuple[float, str] | None, title: str,
    x_label: str, y_label: str,
) -> str:  # fmt: skip
    """A file: layers on top of one another, the first one lowest, "others" grey; `mark` is an x with its words."""
    most = max((sum(column) for column in zip(*layers.values(), strict=True)), default=0.0)
    plot = Plot(960, 420, 70, 230, 44, 48, (0.0, xs[-1] if xs and xs[-1] else 1.0), (0.0, most * 1.08 or 1.0))
    right, base = plot.width - plot.right, plot.height - plot.bottom
    plot.text(plot.left, 22, title, "title")
    plot.grid_y(5)
    plot.axis_x(x_label, ticks(*plot.x_range, 5))
    below = [0.0] * len(xs)
    for place, ((name, sizes), colour) in enumerate(zip(layers.items(), [*COLOURS, REST], strict=False)):
        colour, row = REST if name == "others" else colour, plot.top + 20 * place
        above = [low + size for low, size in zip(below, sizes, strict=True)]
        plot.line([*xs, *reversed(xs)], [*above, *reversed(below)], "layer", fill=colour)
        plot.box(right + 20, row, 12, 12, colour)
        plot.text(right + 38, row + 11, name)
        below = above
    if mark is not None:
        at = plot.x(mark[0])
        plot.path(f"M{at:.1f} {plot.top}V{base}", "peak")
        plot.text(min(at + 5, right - 90), plot.top - 5, mark[1])
    plot.text(16, plot.top - 5, y_label)
    return plot.file(".peak{stroke:#222;stroke-dasharray:4 3}")


def _spread_labels(places: list[float], gap: float, low: float, high: float) -> list[float]:
    """Move labels apart vertically, keeping their order, so that no two are closer than `gap`."""
    order = sorted(range(len(places)), key=lambda i: places[i])
    moved = [places[i] for i in order]
    for _ in range(50):
        for i in range(1, len(moved)):
            short = gap - (moved[i] - moved[i - 1])
            if short > 0:
                moved[i - 1] -= short / 2
                moved[i] += short / 2
        if moved:
            shift = max(0.0, low - moved[0]) - max(0.0, moved[-1] - high)
            moved = [m + shift for m in moved]
    return [moved[order.index(i)] for i in range(len(places))]
