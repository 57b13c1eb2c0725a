"""The tables of docs/performance.md, from the gate's committed expectations.

    PYTHONPATH=.:kernels:engines python -m bench.tables [--write]

Prints them, or with --write puts them between the marks in docs/performance.md.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.expectations import FOLDER
from bench.probe import ROOT

PAGE = ROOT / "docs/performance.md"
BEGIN, END = "<!-- python -m bench.tables: begin -->", "<!-- python -m bench.tables: end -->"
STEP = ("launches", "flops", "bytes", "peak_bytes", "syncs", "left_bytes")


def tables(folder: Path = FOLDER) -> str:
    """A table of counts, one of other counts, and one a device class of times; newest versions alone."""
    parts = []
    for path in sorted(folder.glob("*.json")):
        if path.name.endswith(".new.json"):
            continue
        versions = json.loads(path.read_text("ascii"))["versions"]
        key = max(versions, key=_number)
        counts, ratios = versions[key].get("counts"), versions[key].get("ratios")
        if counts:
            where = "any CPU" if path.stem == "counts" else path.stem
            parts += [f"### Counted on {where} ({key})", counted(counts), others(counts)]
        if ratios:
            about = versions[key].get("machine", {})
            commit = about.get("commit", "unknown")
            name = about.get("card", about.get("processor", path.stem))
            parts += [f"### Timed on {name}, `{path.stem}` ({key}, commit {commit})", timed(ratios)]
    return "\n\n".join(parts)


def counted(counts: dict[str, dict[str, int]]) -> str:
    """Rows that launch something: what one call does."""
    lines = ["| row | launches | FLOPs | bytes | peak bytes | waits | left bytes |", "|---|" + "---:|" * 6]
    for name, row in counts.items():
        if "syncs" in row:
            lines.append(f"| {name} | " + " | ".join(f"{row[key]:,}" if key in row else "" for key in STEP) + " |")
    return "\n".join(lines)


def others(counts: dict[str, dict[str, int]]) -> str:
    """All other rows, a line each."""
    lines = ["| row | counts |", "|---|---|"]
    for name, row in counts.items():
        if "syncs" not in row:
            lines.append(f"| {name} | " + ", ".join(f"{key} {value:,}" for key, value in row.items()) + " |")
    return "\n".join(lines)


def timed(ratios: dict[str, dict[str, Any] | None]) -> str:
    """Times over the reference arm's; a row that was not steady says so."""
    lines = ["| row | time over its reference | between processes | rate |", "|---|---:|---:|---:|"]
    for name, row in ratios.items():
        if row is None:
            lines.append(f"| {name} | not steady, counts only | | |")
        else:
            lines.append(f"| {name} | {row['ratio']:.3f} | {row['spread']:.1%} | {row['rate']:,.4g} {row['unit']}/s |")
    return "\n".join(lines)


def page(text: str) -> str:
    """The page with these tables in the place of those it has.

    Raises:
        ValueError: if the marks are not there.
    """
    before, _, rest = text.partition(BEGIN)
    old, mark, after = rest.partition(END)
    if not mark:
        raise ValueError(f"{PAGE} lacks the marks {BEGIN} and {END}")
    return f"{before}{BEGIN}\n\n{tables()}\n\n{END}{after}"


def _number(key: str) -> tuple[int, ...]:
    return tuple(int(part) for part in key.replace(",", " ").replace(".", " ").split() if part.isdigit())


def main(given: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.tables", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--write", action="store_true", help=f"into {PAGE.relative_to(ROOT)}")
    if parser.parse_args(given).write:
        PAGE.write_text(page(PAGE.read_text("utf-8")), "utf-8")
    else:
        print(tables())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
