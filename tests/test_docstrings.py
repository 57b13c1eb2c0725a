"""Docstrings are sentences or complete noun phrases, and describe arguments and attributes that are there."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = ("fastdreamer", "bench", "kernels", "engines")
FRAGMENT = re.compile(
    r"(?:of|with|without|within|for|by|from|to|in|into|on|onto|at|under|over|as|like|per|between|before|after|above"
    r"|below|beside|behind|through|until|up|where|which|when|whose"
    r"|(?:that|those) (?:of|from|with|by|in|on|that|which|who))\b",
    re.IGNORECASE,
)
"""Openings that leave out what the text is about: prepositions, clauses, and pronouns that point to a name."""
ITEM = re.compile(r"    ([\w.*]+(?:, [\w.*]+)*): (.+)")


def texts(source: str) -> Iterator[tuple[int, str]]:
    """Line and text of every docstring, string below a constant or field, and description of an argument or field."""
    for node in ast.walk(ast.parse(source)):
        for part in getattr(node, "body", []) if isinstance(getattr(node, "body", None), list) else []:
            if (
                isinstance(part, ast.Expr)
                and isinstance(part.value, ast.Constant)
                and isinstance(part.value.value, str)
            ):
                text = part.value.value
                yield part.lineno, text
                yield from ((part.lineno + line, item) for line, _, item in items(text))


def items(docstring: str) -> Iterator[tuple[int, str, str]]:
    """Line, counted from the docstring's first, names and description of everything under Args and Attributes."""
    first, *rest = docstring.split("\n")
    margin = min((len(line) - len(line.lstrip()) for line in rest if line.strip()), default=0)
    is_listed = False
    for number, line in enumerate([first, *(line[margin:] for line in rest)]):
        if line and not line.startswith(" "):
            is_listed = line in ("Args:", "Attributes:")
        elif is_listed and (found := ITEM.fullmatch(line)):
            yield number, found[1], found[2]


def strangers(source: str) -> Iterator[tuple[int, str]]:
    """Line and name of what a docstring describes although nothing in its function or class is called so."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and (docstring := ast.get_docstring(node, clean=False)):
            known = {part.arg for part in ast.walk(node) if isinstance(part, ast.arg)}
            if isinstance(node, ast.ClassDef):
                known |= {part.attr for part in ast.walk(node) if isinstance(part, ast.Attribute)}
                known |= {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}
                known |= {part.name for part in node.body if isinstance(part, ast.FunctionDef)}
            for number, names, _ in items(docstring):
                yield from ((node.body[0].lineno + number, n) for n in names.split(", ") if n.strip("*") not in known)


@pytest.mark.parametrize("folder", SOURCES)
def test_no_docstring_is_a_fragment(folder: str) -> None:
    files = sorted((ROOT / folder).rglob("*.py"))
    found = [(path, *text) for path in files for text in texts(path.read_text(encoding="utf-8"))]
    assert len(files) > 5 and len(found) > 50
    wrong = [f"{path.relative_to(ROOT)}:{line}: {text}" for path, line, text in found if FRAGMENT.match(text)]
    assert wrong == [], "say what it is, or what it does:\n" + "\n".join(wrong)


@pytest.mark.parametrize("folder", SOURCES)
def test_what_is_described_is_there(folder: str) -> None:
    files = sorted((ROOT / folder).rglob("*.py"))
    found = [(path, *one) for path in files for one in strangers(path.read_text(encoding="utf-8"))]
    assert [f"{path.relative_to(ROOT)}:{line}: {name}" for path, line, name in found] == []


def test_fragments_are_told_from_sentences() -> None:
    source = '''
def a(x, seed):
    """Of a loss.

    Args:
        x: of the draw.
        seed: the seed of the draw.
    """

class B:
    """A pair; of two.

    Attributes:
        left, right: in degrees.
    """

    rate = 1
    """Those of the last step."""

def c():
    """Total of all."""
'''
    assert [line for line, text in texts(source) if FRAGMENT.match(text)] == [3, 6, 14, 18]
    assert list(strangers(source)) == [(14, "left"), (14, "right")]
