"""The tables of docs/performance.md are those of the committed expectations."""

from __future__ import annotations

import json
from pathlib import Path

from bench.expectations import SCHEMA
from bench.tables import PAGE, page, tables


def test_the_page_shows_the_committed_expectations() -> None:
    text = PAGE.read_text()
    assert page(text) == text, "run: python -m bench.tables --write"


def test_newest_versions_are_shown_and_unsteady_rows_say_so(tmp_path: Path) -> None:
    row = {"launches": 1234, "flops": 5, "bytes": 6, "syncs": 0, "peak_bytes": 7, "left_bytes": 0}
    sections = {
        "torch 2.9.1, triton 3.6.0": {"counts": {"old": row}},
        "torch 2.13.0, triton 3.7.1": {"counts": {"step": row, "model": {"world": 9}}},
    }
    (tmp_path / "counts.json").write_text(json.dumps({"schema": SCHEMA, "versions": sections}))
    ratios = {"step": {"ratio": 0.5, "spread": 0.031, "rate": 30.25, "unit": "steps"}, "decode": None}
    timed = {"k 1": {"ratios": ratios, "machine": {"processor": "Some CPU", "commit": "abc"}}}
    (tmp_path / "some-cpu.json").write_text(json.dumps({"schema": SCHEMA, "versions": timed}))
    (tmp_path / "some-cpu.new.json").write_text("{")
    text = tables(tmp_path)
    assert "| step | 1,234 | 5 | 6 | 7 | 0 | 0 |" in text and "| model | world 9 |" in text and "old" not in text
    assert "| step | 0.500 | 3.1% | 30.25 steps/s |" in text and "| decode | not steady, counts only | | |" in text
    assert "Some CPU" in text and "commit abc" in text
