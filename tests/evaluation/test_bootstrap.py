"""Bootstrap intervals: coverage, seeding, pairing."""

from __future__ import annotations

import numpy as np
import pytest

from fastdreamer.evaluation.bootstrap import Interval, mean_interval, ratio_interval, statistic_interval


def test_interval_of_a_mean_covers_the_truth_about_95_times_in_100() -> None:
    rng = np.random.default_rng(0)
    intervals = [mean_interval(rng.normal(3.0, 2.0, 40), 500, seed) for seed in range(300)]
    covered = np.mean([i.low <= 3.0 <= i.high for i in intervals])
    assert 0.90 <= covered <= 0.98
    widths = np.mean([i.high - i.low for i in intervals])
    assert widths == pytest.approx(2 * 1.96 * 2.0 / np.sqrt(40), rel=0.06)


def test_interval_is_the_same_for_the_same_seed_and_in_any_block_size() -> None:
    values = np.random.default_rng(1).normal(size=20)
    assert mean_interval(values, 1000, 7) == mean_interval(values, 1000, 7)
    assert mean_interval(values, 1000, 7) != mean_interval(values, 1000, 8)


def test_one_episode_gives_an_interval_of_no_width() -> None:
    assert mean_interval(np.array([2.5]), 100, 0) == Interval(2.5, 2.5, 2.5)


def test_ratio_uses_the_pairing() -> None:
    """Crops differ a hundredfold in how hard they are; the ratio is 1.3 in each, so its interval is narrow."""
    hard = np.random.default_rng(2).lognormal(0, 1.5, 50)
    paired = ratio_interval(1.3 * hard, hard, 1000, 0)
    assert paired.mean == pytest.approx(1.3) and paired.high - paired.low < 1e-9
    unpaired = ratio_interval(1.3 * hard, hard[::-1], 1000, 0)
    assert unpaired.high - unpaired.low > 0.2


def test_a_statistic_of_means_has_the_mean_or_ratio_as_special_cases() -> None:
    values = np.random.default_rng(0).normal(2.0, 1.0, size=(30, 2))
    mean = statistic_interval(values, lambda m: m[..., 0], 500, 1)
    assert mean.to_dict() == pytest.approx(mean_interval(values[:, 0], 500, 1).to_dict())
    ratio = statistic_interval(values, lambda m: m[..., 0] / m[..., 1], 500, 1)
    assert ratio.to_dict() == pytest.approx(ratio_interval(values[:, 0], values[:, 1], 500, 1).to_dict())
    seldom = statistic_interval(values, lambda m: np.where(m[..., 0] > 1.9, m[..., 0], np.nan), 500, 1)
    assert 1.9 <= seldom.low <= seldom.high, "draws for which it does not exist are left out"
