"""Verdicts allow for two standard errors, and no more."""

from __future__ import annotations

from bench.verdict import at_least, at_most


def test_a_promise_holds_within_two_standard_errors() -> None:
    assert at_least("step", 1.9, 2.0) == "FAILS: step 1.9, at least 2"
    assert at_least("step", 1.9, 2.0, 0.06) == "holds: step 1.9 +- 0.06, at least 2"
    assert at_least("step", 1.9, 2.0, 0.04).startswith("FAILS")
    assert at_most("memory", 10.6, 10.5).startswith("FAILS") and at_most("memory", 10.5, 10.5).startswith("holds")
    assert at_most("slope", 0.3, 0.0, 0.2).startswith("holds") and at_most("slope", 0.3, 0.0, 0.1).startswith("FAILS")
