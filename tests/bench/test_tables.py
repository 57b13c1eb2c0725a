"""The tables of docs/performance.md are those of the committed expectations."""

from __future__ import annotations

import json
from pathlib import Path

from bench.gate.expectations import SCHEMA
from bench.gate.tables import COPY, MATMUL, PAGE, floor_of, page, tables


def test_the_page_shows_the_committed_expectations() -> None:
    text = PAGE.read_text()
    assert page(text) == text, "run: python -m bench.gate.tables --write"


def test_newest_versions_are_shown_and_unsteady_rows_say_so(tmp_path: Path) -> None:
    row = {"launches": 1234, "flops": 5, "bytes": 6, "syncs": 0, "peak_bytes": 7, "left_bytes": 0}
    sections = {
        "torch 2.9.1, triton 3.6.0": {"counts": {"old": row}},
        "torch 2.13.0, triton 3.7.1": {"counts": {"step": row, "model": {"world": 9}}},
    }
    (tmp_path / "counts.json").write_text(json.dumps({"schema": SCHEMA, "versions": sections}))
    step = {"ratio": 0.5, "spread": 0.031, "rate": 30.25, "unit": "steps", "seconds": 0.033}
    timed = {"k 1": {"ratios": {"step": step, "decode": None}, "machine": {"processor": "Some CPU", "commit": "abc"}}}
    (tmp_path / "some-cpu.json").write_text(json.dumps({"schema": SCHEMA, "versions": timed}))
    (tmp_path / "some-cpu.new.json").write_text("{")
    text = tables(tmp_path)
    assert "| step | 1,234 | 5 | 6 | 7 | 0 | 0 |" in text and "| model | world 9 |" in text and "old" not in text
    assert "| step | 0.500 | 3.1% | 30.25 steps/s | 33 ms |" in text and "| decode | not steady, counts only |" in text
    assert "Some CPU" in text and "commit abc" in text


def test_a_floor_is_of_products_or_of_memory_and_far_from_it_launches_bound() -> None:
    rates, counts = {COPY: 1e9, MATMUL: 1e10}, {"launches": 100, "flops": 10**9, "bytes": 10**6}
    assert floor_of(0.15, counts, rates) == (0.1, "products")
    assert floor_of(0.15, counts | {"bytes": 2 * 10**8}, rates) == (0.2, "memory")
    assert floor_of(1.0, counts, rates) == (0.1, "launches, 10000.0 µs each")
    assert floor_of(1.0, {"launches": 1}, rates) == (0.0, "") == floor_of(1.0, counts, {})
