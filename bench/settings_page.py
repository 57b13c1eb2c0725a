"""The page docs/settings.md: every setting, from the dataclasses of `fastdreamer/settings` and the comments there.

    PYTHONPATH=.:kernels:engines python -m bench.settings_page [--write]

Prints the page, or with --write puts it in its place. A setting's sentence is the comment at the end of its line or the
lines of comment above it; what may change within a run is said at the field too (`free`).
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import inspect
import textwrap
from collections.abc import Sequence
from typing import Any, get_type_hints

from bench.timing import ROOT
from fastdreamer.config import Config
from fastdreamer.settings import to_dict
from fastdreamer.settings.fields import BOUNDS, free_settings

PAGE = ROOT / "docs/settings.md"
TYPES = {int: "whole number", float: "number", str: "text", bool: "true or false"}
INTRODUCTION = """\
# Settings

<!-- python -m bench.settings_page --write makes this page from fastdreamer/settings; edit the comments there. -->

A setting is named by its section and its own name, as in `phase1.steps`. It stands in a YAML file (`phase1: {steps:
2000}`) or behind any command (`fastdreamer train --phase 1 --run-dir RUN phase1.steps=2000`). `--config` names the
file, or one of the presets in `configs/`; a file that begins with `base: NAME` starts from another one. Names that do
not exist, wrong types and values out of bounds are refused in one line. The defaults here are those of no preset:
`RUN/config.yaml` holds what a run really uses. P is the Dreamer 4 paper, arXiv:2509.24527.

The last column says whether a setting may change in a run that has begun. Where it says "no", latents or weights
depend on the setting, so another value needs another `--run-dir`. "Until phase 2" means that it may change until
phase 2 is trained. The `steps` of a phase may grow on `--resume`, and may not fall below those that are done."""


def page() -> str:
    """The whole page: one table for the settings without a section, then one for each dataclass."""
    parts = [INTRODUCTION, "## Without a section", _table(Config, [""])]
    for schema, sections in _sections().items():
        about = "\n\n".join(_wrapped(part) for part in inspect.cleandoc(schema.__doc__ or "").split("\n\n"))
        parts += [f"## {', '.join(sections)}", about, _table(schema, [f"{name}." for name in sections])]
    return "\n\n".join(parts) + "\n"


def _sections() -> dict[type, list[str]]:
    """The names of the sections of every dataclass; a derived one counts for its base as well."""
    found: dict[type, list[str]] = {}
    hints = get_type_hints(Config)
    for field in dataclasses.fields(Config):
        schema: type = hints[field.name]
        for part in reversed(schema.__mro__):
            if "__dataclass_fields__" in vars(part):
                found.setdefault(part, []).append(field.name)
    return found


def _table(schema: type, prefixes: Sequence[str]) -> str:
    """A line for each setting that the dataclass itself defines."""
    sentences, hints = comments(schema), get_type_hints(schema)
    lines = ["| setting | type | default | bounds | what it is | may change |", "|---|---|---|---|---|---|"]
    for field in dataclasses.fields(schema):
        if field.name not in schema.__annotations__ or dataclasses.is_dataclass(hints[field.name]):
            continue
        (may,) = {_may_change(f"{prefix}{field.name}") for prefix in prefixes}  # one table, so one answer
        cells = (
            f"`{field.name}`", _type(hints[field.name]), f"`{_default(field, schema)}`", _bounds(field),
            sentences[field.name], may,
        )  # fmt: skip
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


def comments(schema: type) -> dict[str, str]:
    """Each own field's sentence, from the source of the dataclass; ValueError naming the first field without one."""
    source = textwrap.dedent(inspect.getsource(schema))
    lines, found = source.splitlines(), {}
    (body,) = [node.body for node in ast.parse(source).body if isinstance(node, ast.ClassDef)]
    for node in body:
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
            continue
        above: list[str] = []
        first = node.lineno - 2
        while lines[first].strip().startswith("#"):
            above.insert(0, lines[first].strip().removeprefix("#").strip())
            first -= 1
        end = lines[(node.end_lineno or node.lineno) - 1][node.end_col_offset :].strip()
        behind = "" if end.startswith("# fmt:") else end.removeprefix("#").strip()
        text = " ".join([*above, behind]).strip()
        if not text and not node.target.id.startswith("_") and not _is_section(node):
            raise ValueError(f"{schema.__name__}.{node.target.id} has no comment that says what it is")
        opening = text[:1] if text[1:2] == ":" else text[:1].upper()  # "c: frames ..." names a letter
        found[node.target.id] = opening + text[1:] + ("" if text.endswith(".") else ".")
    return found


def _wrapped(paragraph: str) -> str:
    return textwrap.fill(" ".join(paragraph.split()), 118, break_long_words=False, break_on_hyphens=False)


def _is_section(node: ast.AnnAssign) -> bool:
    return isinstance(node.annotation, ast.Name) and node.annotation.id.endswith("Config")


def _may_change(path: str) -> str:
    if path in free_settings(Config, is_cloned=True):
        return "yes"
    return "until phase 2" if path in free_settings(Config, is_cloned=False) else "no"


def _type(hint: Any) -> str:
    return TYPES[hint] if hint in TYPES else f"list: {TYPES[hint.__args__[0]]}"


def _default(field: dataclasses.Field[Any], schema: type) -> Any:
    value = to_dict(schema())[field.name]
    return {True: "true", False: "false"}[value] if isinstance(value, bool) else '""' if value == "" else value


def _bounds(field: dataclasses.Field[Any]) -> str:
    said = []
    for name in (name for name in BOUNDS if name in field.metadata):
        bound = field.metadata[name]
        shown = ", ".join(f"`{choice}`" for choice in bound) if name == "choices" else f"{bound:g}"
        said.append(f"{BOUNDS[name][0]} {shown}" if bound != 2**62 else "at most 2^62")
    return ", ".join(said)


def main(given: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.settings_page", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--write", action="store_true", help=f"into {PAGE.relative_to(ROOT)}")
    if parser.parse_args(given).write:
        PAGE.write_text(page(), "utf-8")
    else:
        print(page(), end="")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
