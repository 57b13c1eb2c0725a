"""A verdict is on the figure; only where a promise is "within noise" does the noise count."""

from __future__ import annotations

from bench.suites.results import at_least, at_most


def test_noise_excuses_no_figure_that_is_too_small() -> None:
    assert at_least("step", 1.9, 2.0) == "FAILS: step 1.9, at least 2"
    assert at_least("step", 1.9, 2.0, 0.06) == "FAILS: step 1.9 +- 0.06, at least 2"
    assert at_least("step", 2.0, 2.0, 0.06) == "holds: step 2 +- 0.06, at least 2"


def test_a_slope_may_be_noise() -> None:
    assert at_most("memory", 10.6, 10.5).startswith("FAILS") and at_most("memory", 10.5, 10.5).startswith("holds")
    assert at_most("slope", 0.3, 0.0, 0.2).startswith("holds") and at_most("slope", 0.3, 0.0, 0.1).startswith("FAILS")
