"""Charts as inline SVG. Colours and type come from the page's CSS variables, so one chart serves light, dark, print."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from fastdreamer.report.html import Html, element

DASH = "5 4"
LARGEST = 1e300  # that is drawn: a ratio to nothing is huge, and sums of such are infinite


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


def ticks(low: float, high: float, count: int = 4, whole: bool = False) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten apart) inside low..high, about `count` of them.

    `whole` gives whole numbers only (steps, horizons).
    """
    if not high > low:
        return [low]
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= raw * 0.8)
    step = max(1.0, step) if whole else step
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 12) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def _tick_label(value: float) -> str:
    if value and (abs(value) >= 10_000 or abs(value) < 0.001):
        text = f"{value / 1000:g}k" if abs(value) >= 10_000 else f"{value:.0e}"
        return text.replace("e-0", "e-")
    return f"{value:g}"


def _extent(values: Sequence[float], zero: bool) -> tuple[float, float]:
    finite = [v for v in values if math.isfinite(v)] or [0.0]
    low, high = max(min(finite), -LARGEST), min(max(finite), LARGEST)
    if zero:
        low, high = min(low, 0.0), max(high, 0.0)
    if high - low < 1e-12 * max(1.0, abs(high)):
        margin = abs(high) * 0.1 or 1.0
        return low - (0 if zero and low == 0 else margin), high + margin
    margin = (high - low) * 0.06
    return low if zero and low == 0 else low - margin, high + margin


def _path(xs: Sequence[float], ys: Sequence[float]) -> str:
    """A polyline's path; a value that is not finite leaves a gap."""
    parts, pen = [], "M"
    for x, y in zip(xs, ys, strict=True):
        if math.isfinite(y):
            parts.append(f"{pen}{x:.1f} {y:.1f}")
            pen = "L"
        else:
            pen = "M"
    return "".join(parts)


def _text(x: float, y: float, text: str, kind: str = "tick", anchor: str = "start", tone: str = "") -> Html:
    fill = {"style": f"fill:var(--{tone})"} if tone else {}
    return element("text", text, class_=kind, x=f"{x:.1f}", y=f"{y:.1f}", text_anchor=anchor, **fill)


def _svg(width: float, height: float, label: str, parts: Sequence[str]) -> Html:
    """Parts are made by `_text`, or of formatted numbers and words of ours."""
    drawn, box = Html("".join(parts)), f"0 0 {width:.0f} {height:.0f}"
    return element("svg", drawn, class_="chart", viewBox=box, role="img", aria_label=label)


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


def line_chart(
    series: Sequence[Series],
    x_label: str,
    width: int = 320,
    height: int = 180,
    zero: bool = False,
    direct_labels: bool = False,
    marks: Sequence[float] = (),
    label: str = "",
) -> Html:
    """Lines over a common x axis.

    Args:
        zero: include 0 on the y axis.
        direct_labels: write each series' name at its right end (wide charts) instead of relying on a legend.
        marks: x values of points to draw as dots (few points are read better so); empty for none.
        label: what a screen reader says.
    """
    left, right, top, bottom = 46.0, 186.0 if direct_labels else 12.0, 10.0, 34.0
    x0, x1 = _extent([x for s in series for x in s.xs], zero=False)
    if len({x for s in series for x in s.xs}) > 1:
        x0, x1 = min(x for s in series for x in s.xs), max(x for s in series for x in s.xs)
    y0, y1 = _extent([y for s in series for y in (*s.ys, *s.faint)], zero)
    inner_w, inner_h = width - left - right, height - top - bottom

    def px(x: float) -> float:
        return left + (x - x0) / (x1 - x0) * inner_w

    def py(y: float) -> float:
        return top + (1 - (y - y0) / (y1 - y0)) * inner_h if math.isfinite(y) else math.nan

    parts = []
    for tick in ticks(y0, y1, 4 if height > 150 else 3):
        parts.append(f'<path class="grid" d="M{left:.1f} {py(tick):.1f}H{width - right:.1f}"/>')
        parts.append(_text(left - 7, py(tick) + 3.5, _tick_label(tick), anchor="end"))
    for tick in ticks(x0, x1, 4 if width < 500 else 12, whole=True):
        parts.append(_text(px(tick), height - bottom + 15, _tick_label(tick), anchor="middle"))
    parts.append(f'<path class="axis" d="M{left:.1f} {height - bottom:.1f}H{width - right:.1f}"/>')
    parts.append(_text(left + inner_w / 2, height - 4, x_label, "axis-label", "middle"))
    for s in series:
        if s.faint:
            xs = [px(x) for x in s.xs]
            parts.append(
                f'<path class="faint" style="stroke:var(--{s.tone})" d="{_path(xs, [py(y) for y in s.faint])}"/>'
            )
    for s in reversed(series):  # the first one lies on top
        xs, ys = [px(x) for x in s.xs], [py(y) for y in s.ys]
        dash = f' stroke-dasharray="{DASH}"' if s.dashed else ""
        parts.append(f'<path class="line" style="stroke:var(--{s.tone})"{dash} d="{_path(xs, ys)}"/>')
        for x, y, value in zip(xs, ys, s.xs, strict=True):
            if (len(xs) == 1 or value in marks) and math.isfinite(y):
                parts.append(f'<circle class="dot" style="fill:var(--{s.tone})" cx="{x:.1f}" cy="{y:.1f}" r="3"/>')
    if direct_labels:
        ends = [py(next((y for y in reversed(s.ys) if math.isfinite(y)), y0)) for s in series]
        for s, y in zip(series, _spread_labels(ends, 16, top + 6, height - bottom), strict=True):
            parts.append(_text(width - right + 10, y + 4, s.name, "direct", tone=s.tone))
    return _svg(width, height, label, parts)


def scatter_chart(
    points: Sequence[tuple[float, float]],
    x_label: str,
    y_label: str,
    width: int = 900,
    height: int = 340,
    label: str = "",
) -> Html:
    """Points (x, y) over a dashed diagonal, on which y is x; both axes have the same bounds."""
    left, right, top, bottom = 52.0, 12.0, 22.0, 34.0
    low, high = _extent([value for point in points for value in point], zero=False)
    inner_w, inner_h = width - left - right, height - top - bottom

    def px(x: float) -> float:
        return left + (x - low) / (high - low) * inner_w

    def py(y: float) -> float:
        return top + (1 - (y - low) / (high - low)) * inner_h

    parts = []
    for tick in ticks(low, high, 5):
        parts.append(f'<path class="grid" d="M{left:.1f} {py(tick):.1f}H{width - right:.1f}"/>')
        parts.append(_text(left - 7, py(tick) + 3.5, _tick_label(tick), anchor="end"))
        parts.append(_text(px(tick), height - bottom + 15, _tick_label(tick), anchor="middle"))
    parts.append(f'<path class="reference" d="M{px(low):.1f} {py(low):.1f}L{px(high):.1f} {py(high):.1f}"/>')
    parts.append(f'<path class="axis" d="M{left:.1f} {height - bottom:.1f}H{width - right:.1f}"/>')
    parts.append(_text(left + inner_w / 2, height - 4, x_label, "axis-label", "middle"))
    parts.append(_text(left, 12, y_label, "axis-label"))
    for x, y in points:
        if math.isfinite(x) and math.isfinite(y):
            parts.append(f'<circle class="value" style="fill:var(--model)" cx="{px(x):.1f}" cy="{py(y):.1f}" r="2.5"/>')
    return _svg(width, height, label, parts)


def interval_chart(
    rows: Sequence[Row], x_label: str, reference: float | None = None, width: int = 980, label: str = ""
) -> Html:
    """Estimates with their intervals, one row each; single values lie behind as small dots.

    Args:
        reference: an x value to compare with, drawn as a dashed vertical line.
    """
    left, right, top, step, bottom = 180.0, 170.0, 8.0, 38.0, 36.0
    height = top + step * len(rows) + bottom
    extremes = [v for r in rows for v in (r.low, r.high, r.mean, *r.values)]
    x0, x1 = _extent([*extremes, *([reference] if reference is not None else [])], zero=False)

    def px(x: float) -> float:
        return left + (x - x0) / (x1 - x0) * (width - left - right)

    parts = []
    for tick in ticks(x0, x1, 7):
        parts.append(f'<path class="grid" d="M{px(tick):.1f} {top:.1f}V{height - bottom:.1f}"/>')
        parts.append(_text(px(tick), height - bottom + 16, _tick_label(tick), anchor="middle"))
    parts.append(f'<path class="axis" d="M{left:.1f} {height - bottom:.1f}H{width - right:.1f}"/>')
    if reference is not None:
        parts.append(f'<path class="reference" d="M{px(reference):.1f} {top:.1f}V{height - bottom:.1f}"/>')
    parts.append(_text((left + width - right) / 2, height - 3, x_label, "axis-label", "middle"))
    for place, row in enumerate(rows):
        y = top + step * (place + 0.5)
        style = f'style="fill:var(--{row.tone});stroke:var(--{row.tone})"'
        parts.append(_text(left - 14, y + 4.5, row.label, "row-label", "end"))
        for i, value in enumerate(
            filter(math.isfinite, row.values)
        ):  # a fixed small scatter, so that equal values do not hide one another
            parts.append(
                f'<circle class="value" {style} cx="{px(value):.1f}" cy="{y + (i * 7 % 5 - 2) * 2.6:.1f}" r="2"/>'
            )
        if all(map(math.isfinite, (row.low, row.mean, row.high))):
            parts.append(f'<path class="interval" {style} d="M{px(row.low):.1f} {y:.1f}H{px(row.high):.1f}"/>')
            parts.append(f'<circle class="estimate" {style} cx="{px(row.mean):.1f}" cy="{y:.1f}" r="5.5"/>')
        text = f"{rounded(row.mean)} [{rounded(row.low)}, {rounded(row.high)}]"
        parts.append(_text(width - right + 12, y + 4.5, text, "row-value"))
    return _svg(width, height, label, parts)
