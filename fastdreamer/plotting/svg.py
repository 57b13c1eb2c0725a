"""Drawings in SVG: a plot with its two scales, grid and axis, inside a page or as a file of its own."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from fastdreamer.plotting.html import Html, element

COLOURS = ("#4269d0", "#efb118", "#ff725c", "#6cc5b0", "#3ca951", "#ff8ab7", "#a463f2")
REST = "#9498a0"
LARGEST = 1e300  # that is drawn: a ratio to nothing is huge, and sums of such are infinite
STYLE = "text{font:13px sans-serif;fill:#222}.title{font-size:15px;font-weight:bold}.grid{stroke:#ddd}"


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


def extent(values: Sequence[float], zero: bool = False) -> tuple[float, float]:
    """The range of an axis: of the finite values with a margin; with `zero` 0 is in it."""
    finite = [v for v in values if math.isfinite(v)] or [0.0]
    low, high = max(min(finite), -LARGEST), min(max(finite), LARGEST)
    if zero:
        low, high = min(low, 0.0), max(high, 0.0)
    is_flat = high - low < 1e-12 * max(1.0, abs(high))
    margin = (abs(high) * 0.1 or 1.0) if is_flat else (high - low) * 0.06
    return low if zero and low == 0 else low - margin, high + margin


def tone(name: str) -> dict[str, str]:
    """The attribute that fills a shape with a colour of the page."""
    return {"style": f"fill:var(--{name})"}


@dataclass
class Plot:
    """What is drawn so far, the margins around it in pixels, and the ranges of the axes.

    Shapes take pixels, which `x` and `y` make of values; colours and type come from the page's CSS by the shapes'
    classes, so one chart serves light, dark and print.
    """

    width: float
    height: float
    left: float
    right: float
    top: float
    bottom: float
    x_range: tuple[float, float] = (0.0, 1.0)
    y_range: tuple[float, float] = (0.0, 1.0)
    parts: list[Html] = field(default_factory=list)

    def x(self, value: float) -> float:
        """Place of an x value, in pixels from the left."""
        low, high = self.x_range
        return self.left + (value - low) / (high - low) * (self.width - self.left - self.right)

    def y(self, value: float) -> float:
        """Place of a y value, in pixels from the top; nan of what is not finite."""
        low, high = self.y_range
        share = (value - low) / (high - low) if math.isfinite(value) else math.nan
        return self.top + (1 - share) * (self.height - self.top - self.bottom)

    def text(self, x: float, y: float, text: str, kind: str = "tick", anchor: str = "start", **more: object) -> None:
        """Draw words at a place."""
        place = {"x": f"{x:.1f}", "y": f"{y:.1f}", "text_anchor": anchor}
        self.parts.append(element("text", text, class_=kind, **place, **more))

    def path(self, d: str, kind: str, **more: object) -> None:
        """Draw a path, given in SVG's letters."""
        self.parts.append(element("path", class_=kind, **more, d=d))

    def dot(self, x: float, y: float, radius: float, kind: str, **more: object) -> None:
        """Draw a circle."""
        self.parts.append(element("circle", class_=kind, **more, cx=f"{x:.1f}", cy=f"{y:.1f}", r=radius))

    def box(self, x: float, y: float, width: float, height: float, colour: str) -> None:
        """Draw a filled rectangle."""
        place = {"x": f"{x:.1f}", "y": f"{y:.1f}", "width": f"{width:.1f}", "height": f"{height:.1f}"}
        self.parts.append(element("rect", **place, fill=colour))

    def line(self, xs: Iterable[float], ys: Iterable[float], kind: str, **more: object) -> None:
        """A polyline through values; one that is not finite leaves a gap."""
        d, pen = "", "M"
        for x, y in zip(xs, map(self.y, ys), strict=True):
            d, pen = (f"{d}{pen}{self.x(x):.1f} {y:.1f}", "L") if math.isfinite(y) else (d, "M")
        self.path(d, kind, **more)

    def grid_y(self, count: int) -> None:
        """Horizontal lines at round values, each with its number."""
        for tick in ticks(*self.y_range, count):
            self.path(f"M{self.left:.1f} {self.y(tick):.1f}H{self.width - self.right:.1f}", "grid")
            self.text(self.left - 7, self.y(tick) + 3.5, _tick_label(tick), anchor="end")

    def axis_x(self, label: str, values: Sequence[float], has_grid: bool = False) -> None:
        """The horizontal axis: numbers at these values, on vertical lines or none, and what it is."""
        base = self.height - self.bottom
        for tick in values:
            if has_grid:
                self.path(f"M{self.x(tick):.1f} {self.top:.1f}V{base:.1f}", "grid")
            self.text(self.x(tick), base + 15, _tick_label(tick), anchor="middle")
        self.path(f"M{self.left:.1f} {base:.1f}H{self.width - self.right:.1f}", "axis")
        middle = (self.left + self.width - self.right) / 2
        self.text(middle, self.height - 4, label, "axis-label", "middle")

    def chart(self, label: str) -> Html:
        """The drawing as a part of a page; a screen reader says `label`."""
        box = f"0 0 {self.width:.0f} {self.height:.0f}"
        drawn = Html("".join(self.parts))
        return element("svg", drawn, class_="chart", viewBox=box, role="img", aria_label=label)

    def file(self, style: str = "") -> str:
        """The drawing as a file, on white; `style` goes beyond STYLE."""
        ground, size = element("rect", width="100%", height="100%", fill="#fff"), (self.width, self.height)
        drawn = Html("".join([element("style", Html(STYLE + style)), ground, *self.parts]))
        box = "0 0 {:.0f} {:.0f}".format(*size)
        shape = {"xmlns": "http://www.w3.org/2000/svg", "viewBox": box, "width": size[0], "height": size[1]}
        return element("svg", drawn, **shape) + "\n"


def _tick_label(value: float) -> str:
    if value and (abs(value) >= 10_000 or abs(value) < 0.001):
        text = f"{value / 1000:g}k" if abs(value) >= 10_000 else f"{value:.0e}"
        return text.replace("e-0", "e-")
    return f"{value:g}"
