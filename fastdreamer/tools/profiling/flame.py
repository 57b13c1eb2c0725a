"""Reading a flame graph (SVG as py-spy's renderer writes it) back: which functions the samples were in."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

SVG = "{http://www.w3.org/2000/svg}"
WIDTH = "{http://github.com/jonhoo/inferno}"
TITLE = re.compile(r"(?P<frame>.*) \((?P<samples>[\d,]+) samples?, [\d.]+%\)", re.DOTALL)
LINE = re.compile(r":\d+\)$")


@dataclass
class Frame:
    """A box: `name` with its file, without the line; how many samples passed through it."""

    name: str
    samples: int
    first: int
    children: list[Frame] = field(default_factory=list)

    @property
    def own(self) -> int:
        """Samples that were in it and in nothing that it called."""
        return self.samples - sum(child.samples for child in self.children)

    def walk(self) -> Iterator[Frame]:
        """Walk over this frame and all below it."""
        yield self
        for child in self.children:
            yield from child.walk()

    def find(self, function: str) -> list[Frame]:
        """The topmost frames of a function, by its bare name."""
        if self.name.partition(" (")[0] == function:
            return [self]
        return [found for child in self.children for found in child.find(function)]


def read_flame(file: Path) -> Frame:
    """The tree; its root is all samples."""
    rows: dict[float, list[Frame]] = {}
    for group in ElementTree.parse(file).getroot().iter(f"{SVG}g"):
        title, rect = group.find(f"{SVG}title"), group.find(f"{SVG}rect")
        if title is None or rect is None or f"{WIDTH}w" not in rect.attrib:
            continue
        match = TITLE.fullmatch(title.text or "")
        name = LINE.sub(")", match["frame"]) if match else "all"
        frame = Frame(name, int(rect.attrib[f"{WIDTH}w"]), int(rect.attrib[f"{WIDTH}x"]))
        rows.setdefault(float(rect.attrib["y"]), []).append(frame)
    levels = [sorted(rows[y], key=lambda f: f.first) for y in sorted(rows)]
    if levels and [frame.name for frame in levels[-1]] == ["all"]:  # drawn bottom up
        levels.reverse()
    for above, below in zip(levels, levels[1:], strict=False):
        for frame in below:
            parent = next(p for p in above if p.first <= frame.first < p.first + p.samples)
            parent.children.append(frame)
    if levels and len(levels[0]) == 1 and levels[0][0].name == "all":
        return levels[0][0]
    top = levels[0] if levels else []
    return Frame("all", sum(f.samples for f in top), 0, top)


def own_samples(frames: list[Frame]) -> Counter[str]:
    """Samples by function, of its own, in and below the frames."""
    counted: Counter[str] = Counter()
    for frame in frames:
        for below in frame.walk():
            counted[below.name] += below.own
    return +counted


def samples_through(frames: list[Frame]) -> Counter[str]:
    """Samples by function, with what it called; a function that calls itself counts once."""
    counted: Counter[str] = Counter()

    def visit(frame: Frame, above: frozenset[str]) -> None:
        if frame.name not in above:
            counted[frame.name] += frame.samples
        for child in frame.children:
            visit(child, above | {frame.name})

    for frame in frames:
        visit(frame, frozenset())
    return counted
