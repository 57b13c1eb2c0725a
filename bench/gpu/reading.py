"""What a part that has ended says: one verdict, and figures beside their targets."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from bench.gpu.driver import REACHED, needs_driver
from bench.gpu.parts import Part
from bench.gpu.process import SILENT_S, Ended
from bench.suites.results import NOT_OFFERED

WIDEST = 110
MOST = 3  # failures shown of a part; the log has all
EXPECTED = ("does not fit in one piece", NOT_OFFERED)
"""How reasons of a suite's rows begin that are answers, not failures."""
NOTHING = "nothing was measured; last"
BAD = frozenset({"failed", "hung", "timed out"})
"""Verdicts that make the runner's exit code 1."""


class Figure(NamedTuple):
    """A line of the table; `target` is "" where none was set."""

    text: str
    target: str = ""


class Read(NamedTuple):
    """The verdict in a word or two, and what was found."""

    verdict: str
    figures: list[Figure]


def read(part: Part, ended: Ended, log: Path, out: Path, is_dry: bool, is_cut: bool) -> Read:
    """Verdict and figures of a part.

    Args:
        part: the part.
        ended: how it ended.
        log: what it printed.
        out: the JSON that it may have written, whole or as far as it came.
        is_dry: targets mean nothing, and rows that need the driver are as they should be.
        is_cut: its limit was not its own, but the end of the runner's minutes.
    """
    text = log.read_text("utf-8", "replace") if log.exists() else ""
    troubles, figures = _of_kind(part, text, contents(out), is_dry)
    missed = [] if is_dry else [line for line in text.splitlines() if line.startswith("FAILS: ")]
    if ended.left:
        figures.append(Figure(f"left {ended.left} processes behind, which were killed"))
    if ended.alive:
        figures.append(Figure(f"{ended.alive} processes wait for the driver and cannot be killed"))
    if ended.why:
        verdict = {"silence": "hung", "stop": "stopped", "time": "cut off" if is_cut else "timed out"}[ended.why]
        said = {
            "silence": f"no output and no processor time for {SILENT_S:.0f} s, killed after {ended.seconds:.0f} s",
            "stop": f"stopped after {ended.seconds:.0f} s",
            "time": f"killed after {ended.seconds:.0f} s" + (", at the end of the minutes" if is_cut else ""),
        }[ended.why]
        return Read(verdict, [Figure(f"{said}; last: {_last(text)}"), *figures, *troubles])
    if ended.code != 0:
        troubles = [one for one in troubles if not one.text.startswith(NOTHING)]
        troubles = troubles or [Figure(f"{_how(ended.code)}: {_last(text)}")]
    if troubles:
        return Read("failed", troubles + figures)
    if is_dry:
        return Read("starts", figures)
    return Read("missed" if missed else "passed", figures)


def _of_kind(part: Part, text: str, measured: Any, is_dry: bool) -> tuple[list[Figure], list[Figure]]:
    """(what went wrong, what was found) in the part's own way of saying it."""
    if part.kind == "tests":
        return _tests(text, is_dry)
    found = [] if is_dry else verdicts(text)
    if part.kind == "suite":
        return _suite(measured if isinstance(measured, dict) else {}, text, found, is_dry)
    if part.kind == "gate":
        wrong = measured.get("wrong", {}) if isinstance(measured, dict) else {}
        troubles = [Figure(f"{name}: {reason}") for name, reason in wrong.items()]
        troubles += [Figure(line.removeprefix("RED ")) for line in text.splitlines() if line.startswith("RED ")]
        rows = len(measured.get("counts", {})) if isinstance(measured, dict) else 0
        if not rows and not troubles:
            troubles = [Figure(f"{NOTHING}: {_last(text)}")]
        return _few(troubles), [Figure(f"{rows} rows right and counted", "each right")]
    troubles = [Figure(line) for line in text.splitlines() if line.startswith("failed: ")]
    if not is_dry and not found and not troubles:
        troubles = [Figure(f"{NOTHING}: {_last(text)}")]
    if is_dry and (shown := verdicts(text)):
        return _few(troubles), [Figure(f"{len(shown)} figures, which mean nothing here")]
    return _few(troubles), found or [Figure(_last(text))]


def verdicts(text: str) -> list[Figure]:
    """Lines as `bench.suites.results` writes them."""
    found = re.findall(r"^(holds|FAILS): (.+), (at (?:least|most) \S+)$", text, re.MULTILINE)
    return [Figure(f"{'' if holds == 'holds' else 'MISSED '}{figure}", target) for holds, figure, target in found]


def _tests(text: str, is_dry: bool) -> tuple[list[Figure], list[Figure]]:
    summary = next((line for line in reversed(text.splitlines()) if re.search(r" in [\d.]+s\b", line)), "")
    counts = {word: int(number) for number, word in re.findall(r"(\d+) (passed|failed|skipped|errors?)", summary)}
    reached = sum(
        int(number) for number in re.findall(rf"^SKIPPED \[(\d+)\].*(?:{REACHED}|needs a CUDA GPU)", text, re.MULTILINE)
    )
    troubles = [Figure(line) for line in text.splitlines() if re.match(r"(FAILED|ERROR) ", line)]
    if not troubles and not counts.get("passed") and not (is_dry and reached):
        troubles = [Figure(f"{NOTHING}: {_last(text)}")]
    if is_dry:
        return _few(troubles), [Figure(f"{counts.get('passed', 0)} ran whole, {reached} {REACHED}")]
    reasons = sorted(set(re.findall(r"^SKIPPED .*?: (.+)$", text, re.MULTILINE)))
    figure = ", ".join(f"{number} {word}" for word, number in counts.items())
    return _few(troubles), [Figure(figure + (f" ({'; '.join(reasons)})" if reasons else ""), "each passes")]


def _suite(
    measured: Mapping[str, Any], text: str, found: list[Figure], is_dry: bool
) -> tuple[list[Figure], list[Figure]]:
    rows = [row for row in measured.get("rows", []) if isinstance(row, dict)]
    troubles = [
        Figure(f"{row.get('row')}, {row.get('arm')}: {row['reason']}")
        for row in rows
        if row.get("reason") and not row["reason"].startswith(EXPECTED) and not (is_dry and needs_driver(row["reason"]))
    ]
    if not rows:
        return [Figure(f"{NOTHING}: {_last(text)}")], found
    if is_dry:
        driver = sum(bool(row.get("reason")) and needs_driver(row["reason"]) for row in rows)
        return _few(troubles), [Figure(f"{len(rows) - driver} rows ran whole, {driver} {REACHED}")]
    shares = [
        Figure(f"{r['row']}, {r['arm']}: {r['ms_per_step']:.1f} ms, MFU {r['mfu']:.1%}") for r in rows if r.get("mfu")
    ]
    fastest = [Figure(line) for line in text.splitlines() if line.startswith("fastest: ")]
    count = [] if found or shares or fastest else [Figure(f"{len(rows)} rows")]
    return _few(troubles), [*found, *shares, *fastest, *count]


def _few(troubles: list[Figure]) -> list[Figure]:
    more = len(troubles) - MOST
    return troubles if more <= 0 else [*troubles[:MOST], Figure(f"and {more} more, in the log")]


def _last(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "nothing was printed"


def _how(code: int | None) -> str:
    if code is None:
        return "it cannot be killed"
    if code >= 0:
        return f"exit code {code}"
    with suppress(ValueError):
        return f"killed by {signal.Signals(-code).name}"
    return f"killed by signal {-code}"


def contents(path: Path) -> Any:
    """What a part measured, as JSON; None where it wrote none."""
    with suppress(OSError, ValueError):
        return json.loads(path.read_text("utf-8"))
    return None
