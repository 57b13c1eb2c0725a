"""What the gate expects, in committed files, and what it says of a difference. Nothing is measured here.

    bench/baselines/counts.json     whole numbers, the same on every CPU
    bench/baselines/<device>.json   times over the reference arm's on one class of device; a GPU's counts too

Either is keyed by the versions of torch and Triton. An update writes `<name>.new.json` beside the old file, for a
person to look at, move over it and commit.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastdreamer.errors import UserError

SCHEMA = 1
FOLDER = Path(__file__).parents[1] / "baselines"
RATIO_MARGIN = 1.12
MARGINS = {
    "peak_bytes": 1.05, "planned_used_bytes": 1.05, "planned_reserved_bytes": 1.05,
    "allocated_bytes": 1.10, "reserved_bytes": 1.10,
}  # fmt: skip
"""Margins of counts that may differ a little either way; all others are exact."""
UPDATE = "update the baseline"
HOW = (
    "what is meant is taken in by: python -m bench.gate --full --update (machine code: python -m "
    "fastdreamer_kernels.aot --update)"
)


@dataclass(frozen=True)
class Timed:
    """A row's time over its reference arm's.

    Attributes:
        ratio: median of pairs; `error`: its relative standard error, from the spread of the pairs.
        pairs: how many; `seconds`: of one call of ours.
        rate: items a second, `unit` says of what.
    """

    ratio: float
    error: float
    pairs: int
    seconds: float
    rate: float
    unit: str


Counts = Mapping[str, Mapping[str, int]]


def load(path: Path, key: str, name: str) -> dict[str, Any] | None:
    """The rows of a baseline file's section (`counts` or `ratios`) for the given versions; None if it has none.

    Raises:
        UserError: if the file is damaged, or of another schema.
    """
    if not path.exists():
        return None
    try:
        contents = json.loads(path.read_text(encoding="ascii"))
        if contents["schema"] != SCHEMA:
            raise ValueError(f"schema {contents['schema']}, this reads {SCHEMA}")
        found = contents["versions"].get(key, {}).get(name)
        return dict(found) if found is not None else None
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{path} cannot be read ({error}): take it from git") from None


def save_new(path: Path, key: str, sections: Mapping[str, Any]) -> Path:
    """Writes the file beside the old one with the sections of these versions replaced; returns the new file's path."""
    old = {"schema": SCHEMA, "versions": {}}
    if path.exists():
        old = json.loads(path.read_text(encoding="ascii"))
    versions = {**old["versions"], key: {**old["versions"].get(key, {}), **sections}}  # type: ignore[dict-item,attr-defined]
    new = path.with_name(f"{path.stem}.new.json")
    new.parent.mkdir(parents=True, exist_ok=True)
    new.write_text(json.dumps({"schema": SCHEMA, "versions": versions}, indent=1, sort_keys=True) + "\n", "ascii")
    return new


def known_versions(path: Path) -> list[str]:
    """What a baseline file has expectations for."""
    return list(json.loads(path.read_text(encoding="ascii"))["versions"]) if path.exists() else []


def compare_names(expected: Iterable[str], measured: Iterable[str], applicable: Iterable[str], file: str) -> list[str]:
    """Rows that a baseline (`file`) names, for this run, and that were not measured; and the other way round."""
    expected, measured, skipped = set(expected), set(measured), set(applicable)
    missing = [
        f"{row}: expected in {file}, measured nothing, margin exact: missing row"
        for row in sorted(expected - measured - skipped)
    ]
    new = [
        f"{row}: expected nothing in {file}, measured a new row, margin exact: {UPDATE}"
        for row in sorted(measured - expected)
    ]
    return missing + new


def compare_counts(expected: Counts, measured: Counts) -> list[str]:
    """One line for every count that differs from what is expected by more than its margin."""
    red = []
    for row in measured:
        if row not in expected:
            continue
        for name in sorted({*expected[row], *measured[row]}):
            was, now = expected[row].get(name), measured[row].get(name)
            if was is None or now is None:
                red.append(f"{row}: {name} expected {_whole(was)}, measured {_whole(now)}, margin exact: {UPDATE}")
                continue
            margin = MARGINS.get(name, 1.0)
            if was / margin <= now <= was * margin:
                continue
            share = f", {now / was:.3f}x" if was else ""
            allowed = "exact" if margin == 1.0 else f"{margin:.2f}x"
            verdict = "more than expected" if now > was else f"less than expected; if that is better, {UPDATE}"
            red.append(
                f"{row}: {name} expected {was:,}, measured {now:,} ({now - was:+,}{share}), margin {allowed}: {verdict}"
            )
    return red


def compare_ratio(row: str, expected: float, measured: Timed) -> str:
    """The line for a time that is out of its margin, or ""."""
    change = measured.ratio / expected
    if 1 / RATIO_MARGIN <= change <= RATIO_MARGIN and not math.isnan(measured.error):
        return ""
    verdict = "slower" if change > 1 else f"faster; {UPDATE}"
    return (
        f"{row}: time over its reference expected {expected:.3f}, measured {measured.ratio:.3f} +- "
        f"{measured.ratio * measured.error:.3f} ({change:.2f}x, {measured.pairs} pairs), margin {RATIO_MARGIN:.2f}x: "
        f"{verdict}"
    )


def _whole(value: int | None) -> str:
    return "nothing" if value is None else f"{value:,}"
