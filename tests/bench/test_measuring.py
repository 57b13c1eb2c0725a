"""Rows are checked, counted and timed in that order, and times are taken until they are precise; no real clock."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from bench.gate import measure
from bench.gate.__main__ import judge
from bench.gate.measure import is_precise, median_error, until_precise
from bench.gate.rows import RowWork, Wrong
from bench.timing import Arm

from .recorded import row

CPU = torch.device("cpu")


def test_what_is_wrong_is_neither_counted_nor_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong() -> None:
        raise Wrong("the loss is 2,\nthe reference's 1")

    def never(*_: object) -> Any:
        raise AssertionError("was counted or timed")

    monkeypatch.setattr(measure, "until_precise", never)
    measured = measure.measure([row("step", check=wrong, counts=never)], CPU, is_full=True, is_timed=True)
    assert measured.counts == {} == measured.times
    assert measured.wrong == {"step": "the result is not its reference's: the loss is 2, the reference's 1"}
    red, _ = judge(measured, CPU, [])
    assert f"step: expected to be right, {measured.wrong['step']}; not timed" in red
    broken = measure.measure([row(counts=lambda: {}["x"])], CPU, is_full=True, is_timed=False)
    assert broken.wrong == {"sum": "it failed with KeyError: 'x'"}


def test_rows_that_are_not_for_here_are_left_out_with_the_reason() -> None:
    rows = [
        row("a", devices=("cuda",)),
        row("b", needs=("no_such_library",)),
        row("c", needs=("torch.no_such_part",)),
        row("d", is_short=False),
        row("e", excuse=lambda: "too hot"),
        row("f"),
    ]
    measured = measure.measure(rows, CPU, is_full=False, is_timed=False)
    assert measured.left_out == {
        "a": "not for cpu", "b": "needs no_such_library", "c": "needs torch.no_such_part", "d": "runs with --full",
        "e": "too hot",
    } and list(measured.counts) == ["f"]  # fmt: skip


def clocked(monkeypatch: pytest.MonkeyPatch, ours_s: float, noise: list[float]) -> RowWork:
    """A row whose reference takes 1 ms on a made-up clock, and whose calls are stretched by `noise` in turns."""
    now, calls = [0.0], [0]

    def spend(seconds: float) -> Any:
        def run(_: object) -> None:
            now[0] += seconds * noise[calls[0] % len(noise)]
            calls[0] += 1

        return Arm(run)

    for module in ("bench.timing", "bench.gate.measure"):
        monkeypatch.setattr(f"{module}.time.perf_counter", lambda: now[0])
    return RowWork(lambda: None, dict, spend(ours_s), spend(0.001), items=3, unit="frames")


def test_pairs_go_on_until_the_error_is_small_or_the_time_is_up(monkeypatch: pytest.MonkeyPatch) -> None:
    quiet = until_precise(clocked(monkeypatch, 0.002, [1.0]), budget_s=5.0)
    assert quiet.ratio == pytest.approx(2.0) and quiet.pairs == 16 and quiet.error == pytest.approx(0.0, abs=1e-9)
    assert quiet.rate == pytest.approx(1500.0) and quiet.unit == "frames"
    noisy = until_precise(clocked(monkeypatch, 0.002, [1.0, 1.3, 0.8, 1.1, 1.5, 0.9, 1.2]), budget_s=5.0)
    assert noisy.pairs > 16 and noisy.error <= 0.025 and noisy.ratio == pytest.approx(2.0, rel=0.12)
    hopeless = until_precise(clocked(monkeypatch, 0.002, [1.0, 4.0, 0.3, 9.0, 0.5, 2.0, 7.0]), budget_s=0.3)
    assert not is_precise(hopeless)


def test_the_error_of_a_median_ignores_the_few_that_were_interrupted() -> None:
    generator = torch.Generator().manual_seed(0)
    pairs = [float(torch.exp(0.05 * torch.randn((), generator=generator))) for _ in range(100)]
    clean = median_error(pairs)
    assert 0.4 < clean / (1.2533 * 0.05 / 10) < 2.0
    assert median_error([*pairs[:-5], *[20.0] * 5]) < 2 * clean
    assert median_error(pairs[:4]) == float("inf")
