"""Markup, made in one place: whatever is put into an element is escaped, unless it is markup itself."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from importlib import resources
from string import Template

VOID = ("img", "br")
SHAPES = ("path", "circle", "rect")


class Html(str):
    """Text that is markup already. An f-string or a join of it is plain text again, and is escaped where it is put."""


def element(name: str, *content: object, **attributes: object) -> Html:
    """<name attributes>content</name>; `class_` stands for class, an underscore within a name for a hyphen."""
    given = "".join(f' {key.strip("_").replace("_", "-")}="{escape(str(value))}"' for key, value in attributes.items())
    if name in VOID or name in SHAPES:
        return Html(f"<{name}{given}{'/' if name in SHAPES else ''}>")
    return Html(f"<{name}{given}>{joined(content)}</{name}>")


def joined(parts: Iterable[object], between: str = "") -> Html:
    """Parts one after another, with `between` (markup of ours) between them."""
    return Html(between.join(part if isinstance(part, Html) else escape(str(part)) for part in parts))


def heading(title: str, about: Sequence[object], sentences: Iterable[str]) -> Html:
    """What opens a page: its title, what it is about, and what was found, in words."""
    said = element("p", *(element("span", sentence) for sentence in sentences), class_="verdict")
    return joined([element("h1", title), element("p", joined(about, " &middot; "), class_="meta"), said])


def note(text: object) -> Html:
    """A remark about what is missing or limited."""
    return element("p", text, class_="note")


def lead(text: object) -> Html:
    """The paragraph that opens a section."""
    return element("p", text, class_="lead")


def bar_cell(share: float, text: str) -> Html:
    """A table cell with a bar behind its text; `share` is 0..1 of the cell."""
    width = max(0.0, min(1.0, share)) * 100
    bar = element("i", style=f"width:{width:.1f}%")
    return element("td", element("div", bar, element("em", text)), class_="bar")


def table(head: Sequence[object], rows: Iterable[Sequence[object]], even: bool = False) -> Html:
    """A table; a cell is what stands in it, or a ready <td>. `even` makes all columns equally wide."""
    titles = element("thead", element("tr", *(element("th", title) for title in head)))
    body = element("tbody", *(element("tr", *map(_cell, row)) for row in rows))
    return element("div", element("table", titles, body, **({"class_": "even"} if even else {})), class_="scroll")


def figure(content: Html, caption: str) -> Html:
    """A framed chart and how to read it."""
    return element("figure", element("div", content, class_="card"), element("figcaption", caption))


def page(title: str, header: Html, sections: Sequence[tuple[str, str, Html]]) -> str:
    """A self-contained page: a header, links to its sections, and these, each (anchor, title, content)."""
    links = element("nav", *(element("a", title, href=f"#{anchor}") for anchor, title, _ in sections))
    parts = [element("section", element("h2", title), content, id=anchor) for anchor, title, content in sections]
    template = resources.files("fastdreamer.plotting").joinpath("report_template.html").read_text(encoding="utf-8")
    text = Template(template).substitute(title=escape(title), body=joined([header, links, *parts], "\n"))
    return text.encode("utf-8", "replace").decode("utf-8")  # half a character of a name is no reason to fail


def _cell(content: object) -> Html:
    is_ready = isinstance(content, Html) and content.startswith("<td")
    return content if is_ready and isinstance(content, Html) else element("td", content)
