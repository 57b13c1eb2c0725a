"""The harness: paired ratios, counts, rows and the JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from bench.count import count
from bench.suites.kernels import COLUMNS, kernel_rows, measure, verdicts
from bench.suites.results import Measured, read, table, write
from bench.timing import Arm, paired


def test_a_pair_sees_twice_the_work_and_prepares_outside_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]

    def spend(seconds: float) -> Callable[..., None]:
        def work(*_: object) -> None:
            now[0] += seconds * (1 + now[0] / 10)  # a machine that slows down all the time

        return work

    monkeypatch.setattr("bench.timing.time.perf_counter", lambda: now[0])
    pair = paired(Arm(spend(0.002), spend(0.1)), Arm(spend(0.004)), pairs=6, target_s=0.01)
    assert pair.ratio == pytest.approx(2.0, rel=0.1) and pair.pairs == 6 and pair.error < 0.1
    assert pair.seconds_b == pytest.approx(2 * pair.seconds_a, rel=0.1)


def test_aten_launches_and_bytes_are_counted_and_views_are_free() -> None:
    x, y = torch.ones(4, 8), torch.ones(4, 8)
    with count() as counts:
        (x.view(-1)[:8] * y[0]).unsqueeze(0)
    assert counts.aten == ["mul.Tensor"] and counts.triton == []
    assert counts.bytes == 3 * 8 * 4 and counts.launches == 1


def test_every_kernel_has_rows_that_run_and_floors() -> None:
    rows = list(kernel_rows("cpu", (torch.float32,), ("eager", "kernel"), small=True))
    names = {row.name.split()[0] for row in rows}
    assert names == {"latent_pool", "two_hot_loss", "two_hot_decode"}
    for row in rows:
        eager, kernel = (arm.run(arm.prepare()) for arm in row.arms.values())
        torch.testing.assert_close(eager, kernel, atol=1e-4, rtol=1e-4)
        assert row.floor_bytes > 0 and row.flops > 0
    measured = list(measure(rows[0], "cpu", 1e9))
    assert [m.arm for m in measured] == ["eager", "kernel"] and measured[0].median_us > 0
    assert "latent_pool" in table(measured, COLUMNS)


def test_verdicts_are_given_on_what_was_promised() -> None:
    def row(name: str, arm: str, us: float, share: float, speedup: float) -> Measured:
        return Measured(name, arm, "cold", us, 1, 1, 1, share, speedup)

    loss, pool = "two_hot_loss 24,576 x 255 bf16 both", "latent_pool 256 MB bf16 forward"
    rows = [
        row(loss, "kernel", 10.0, 0.59, 6.0),
        row(loss, "compile", 13.0, 0.4, 4.0),
        row(pool, "kernel", 9.0, 0.9, 1.0),
    ]
    assert [line[:5] for line in verdicts(rows)] == ["holds", "holds", "FAILS", "holds"]
    assert verdicts(rows[:1]) == []


def test_results_are_written_whole_and_of_a_known_schema(tmp_path: Path) -> None:
    row = Measured("pool", "kernel", "cold", 10.0, 1_000_000, 5, 1, 0.8, 2.0)
    write(tmp_path / "sub/card.json", {"card": "none"}, {"copy_bytes_per_s": 1.0}, [row])
    contents = read(tmp_path / "sub/card.json")
    assert contents["rows"][0]["gb_per_s"] == pytest.approx(100.0) and contents["rows"][0]["launches"] == 1
    for spoiled in ({**contents, "schema": 0}, {"schema": contents["schema"]}):
        (tmp_path / "other.json").write_text(json.dumps(spoiled))
        with pytest.raises(ValueError, match="measure it again"):
            read(tmp_path / "other.json")
