"""pytest-benchmark rows of the kernels on this machine's CPU: make bench."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from bench.suites.kernels import Row, kernel_rows

ROWS = {row.name: row for row in kernel_rows("cpu", (torch.float32,), ("eager", "compile"), small=True)}


@pytest.mark.parametrize("arm", ["eager", "compile"])
@pytest.mark.parametrize("name", ROWS)
def test_row(name: str, arm: str, benchmark: Any) -> None:
    row: Row = ROWS[name]
    chosen = row.arms[arm]
    chosen.run(chosen.prepare())  # compiles
    benchmark.group = name
    benchmark.extra_info.update(floor_bytes=row.floor_bytes, flops=row.flops)
    benchmark.pedantic(chosen.run, setup=lambda: ((chosen.prepare(),), {}), rounds=20, warmup_rounds=2)
