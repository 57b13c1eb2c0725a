"""The tables of docs/performance.md, from the gate's committed expectations.

    PYTHONPATH=.:kernels:engines python -m bench.gate.tables [--write]

Prints them, or with --write puts them between the marks in docs/performance.md.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.gate.expectations import FOLDER
from bench.timing import ROOT

PAGE = ROOT / "docs/performance.md"
BEGIN, END = "<!-- python -m bench.gate.tables: begin -->", "<!-- python -m bench.gate.tables: end -->"
COPY, MATMUL = "copy_bytes_per_s", "matmul_flop_per_s"
NEAR = 2.0
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
            rates = versions[key].get("rates", {})
            measured = ", ".join(f"{label} {value:.3g}" for label, value in rates.items())
            parts += [
                f"### Timed on {name}, `{path.stem}` ({key}, commit {commit})",
                *([f"Floors at {measured}, measured in the same run."] if rates else []),
                timed(ratios, counts or _counts_on_a_cpu(folder, key), rates),
            ]
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


def timed(ratios: dict[str, dict[str, Any] | None], counts: dict[str, dict[str, int]], rates: dict[str, float]) -> str:
    """Times over the reference arm's, and over the machine's floor; a row that was not steady says so."""
    lines = [
        "| row | time over its reference | between processes | rate | one call | its floor | bound by |",
        "|---|---:|---:|---:|---:|---:|---|",
    ]
    for name, row in ratios.items():
        if row is None:
            lines.append(f"| {name} | not steady, counts only | | | | | |")
            continue
        floor, bound = floor_of(row["seconds"], counts.get(name, {}), rates)
        lines.append(
            f"| {name} | {row['ratio']:.3f} | {row['spread']:.1%} | {row['rate']:,.4g} {row['unit']}/s | "
            f"{1e3 * row['seconds']:,.3g} ms | {f'{1e3 * floor:,.3g} ms' if floor else ''} | {bound} |"
        )
    return "\n".join(lines)


def floor_of(seconds: float, counts: dict[str, int], rates: dict[str, float]) -> tuple[float, str]:
    """The least seconds that the counted FLOPs and bytes take at the machine's rates, 0 if they are not counted.

    What bounds a call is its floor if it takes at most NEAR times as long, else the launches.
    """
    if not rates or not {"flops", "bytes", "launches"} <= counts.keys():
        return 0.0, ""
    products, memory = counts["flops"] / rates[MATMUL], counts["bytes"] / rates[COPY]
    floor = max(products, memory)
    if seconds <= NEAR * floor:
        return floor, "products" if products > memory else "memory"
    return floor, f"launches, {1e6 * seconds / max(1, counts['launches']):.1f} µs each"


def page(text: str) -> str:
    """The page with these tables in the place of those it has; ValueError if the marks are not there."""
    before, _, rest = text.partition(BEGIN)
    old, mark, after = rest.partition(END)
    if not mark:
        raise ValueError(f"{PAGE} lacks the marks {BEGIN} and {END}")
    return f"{before}{BEGIN}\n\n{tables()}\n\n{END}{after}"


def _counts_on_a_cpu(folder: Path, key: str) -> dict[str, dict[str, int]]:
    path = folder / "counts.json"
    versions = json.loads(path.read_text("ascii"))["versions"] if path.exists() else {}
    counts: dict[str, dict[str, int]] = versions.get(key, {}).get("counts", {})
    return counts


def _number(key: str) -> tuple[int, ...]:
    return tuple(int(part) for part in key.replace(",", " ").replace(".", " ").split() if part.isdigit())


def main(given: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.gate.tables", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--write", action="store_true", help=f"into {PAGE.relative_to(ROOT)}")
    if parser.parse_args(given).write:
        PAGE.write_text(page(PAGE.read_text("utf-8")), "utf-8")
    else:
        print(tables())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
