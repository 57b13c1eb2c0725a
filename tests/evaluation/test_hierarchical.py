"""Intervals over seeds and worlds: coverage where seeds differ and where they do not, pairing, one seed."""

from __future__ import annotations

import numpy as np
import pytest
from numpy import ndarray

from fastdreamer.evaluation.bootstrap import hierarchical_mean, hierarchical_ratio, mean_interval, student

TRUTH = 0.5


def study(rng: np.random.Generator, between: float, within: float, seeds: int = 5, worlds: int = 40) -> list[ndarray]:
    return [TRUTH + rng.normal(0, between) + rng.normal(0, within, worlds) for _ in range(seeds)]


@pytest.mark.parametrize(("between", "within", "seeds"), [(1.0, 1.0, 5), (0.0, 2.0, 5), (0.3, 2.0, 3)])
def test_the_interval_holds_the_truth_about_95_times_in_100(between: float, within: float, seeds: int) -> None:
    rng = np.random.default_rng(0)
    found = [hierarchical_mean(study(rng, between, within, seeds), 300, n).interval for n in range(300)]
    covered = np.mean([i.low <= TRUTH <= i.high for i in found])
    assert 0.92 <= covered <= 0.98, covered


def test_worlds_alone_would_be_too_sure_where_seeds_differ() -> None:
    rng = np.random.default_rng(0)
    studies = [study(rng, 1.0, 1.0) for _ in range(100)]
    pooled = [mean_interval(np.concatenate(one), 300, 0) for one in studies]
    assert np.mean([i.low <= TRUTH <= i.high for i in pooled]) < 0.6


def test_every_seed_counts_the_same_and_the_draws_are_seeded() -> None:
    seeds = [np.zeros(10), np.full(1000, 3.0), np.array([0.0, 6.0])]
    one = hierarchical_mean(seeds, 500, 1)
    assert one.interval.mean == pytest.approx(2.0) and one.by_seed == (0.0, 3.0, 3.0) and one.positive == 2
    assert one == hierarchical_mean(seeds, 500, 1) != hierarchical_mean(seeds, 500, 2)
    assert one.to_dict()["over"] == "seeds and worlds"


def test_one_seed_speaks_for_worlds_alone_and_says_so() -> None:
    values = np.random.default_rng(0).normal(size=30)
    one = hierarchical_mean([values], 500, 3)
    assert one.over == "worlds" and one.interval == mean_interval(values, 500, 3)
    ratio = hierarchical_ratio([values + 5], [values + 4], 500, 3)
    assert ratio is not None and ratio.over == "worlds"


def test_a_ratio_keeps_worlds_together_and_covers() -> None:
    rng = np.random.default_rng(0)
    hard = [rng.lognormal(0, 1.5, 50) for _ in range(4)]
    ratio = hierarchical_ratio([1.3 * values for values in hard], hard, 500, 0)
    assert ratio is not None and ratio.interval.mean == pytest.approx(1.3)
    assert ratio.interval.high - ratio.interval.low < 1e-9
    held = []
    for number in range(120):
        bottoms = study(rng, 0.05, 0.3)
        tops = [1.3 * values + rng.normal(0, 0.1) + rng.normal(0, 0.1, len(values)) for values in bottoms]
        found = hierarchical_ratio(tops, bottoms, 200, number)
        held.append(found is not None and found.interval.low <= 1.3 <= found.interval.high)
    assert 0.91 <= np.mean(held) <= 0.99


def test_a_ratio_over_nothing_is_none() -> None:
    assert hierarchical_ratio([np.ones(3)], [np.zeros(3)], 100, 0) is None
    assert hierarchical_ratio([np.ones(3)] * 2, [np.ones(3), -np.ones(3)], 100, 0) is None


def test_student_is_the_tables() -> None:
    assert student(4) == pytest.approx(2.776, abs=1e-3)
    assert student(10) == pytest.approx(2.228, abs=4e-3) and student(1000) == pytest.approx(1.962, abs=1e-3)
    assert all(student(n) > student(n + 1) for n in range(1, 40))
