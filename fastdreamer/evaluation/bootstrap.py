"""Percentile bootstrap intervals: of a mean over episodes, a ratio over paired crops, any function of means."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy import ndarray


@dataclass(frozen=True)
class Interval:
    """A point estimate with the bounds of its 95 % bootstrap interval."""

    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, figures: Mapping[str, Any]) -> Interval:
        """The interval among an estimate's figures."""
        return cls(float(figures["mean"]), float(figures["low"]), float(figures["high"]))

    def to_dict(self) -> dict[str, float]:
        """The three numbers by name, as the evaluation files hold them."""
        return asdict(self)


def _resampled_means(
    values: Float[ndarray, "e m"], resamples: int, seed: int, block: int = 256
) -> Float[ndarray, "r m"]:
    """Means of `resamples` draws with replacement of the rows; columns of a row stay together (they are paired)."""
    rng = np.random.default_rng(seed)
    rows = len(values)
    means = np.empty((resamples, values.shape[1]))
    for start in range(0, resamples, block):  # blocks bound the memory, not the result
        stop = min(start + block, resamples)
        means[start:stop] = values[rng.integers(0, rows, (stop - start, rows))].mean(axis=1)
    return means


def _interval(estimate: float, draws: Float[ndarray, " r"]) -> Interval:
    low, high = np.quantile(draws, (0.025, 0.975))
    return Interval(float(estimate), float(low), float(high))


def mean_interval(values: Float[ndarray, " e"], resamples: int, seed: int) -> Interval:
    """The mean of `values` over episodes and its 95 % percentile bootstrap interval.

    One value gives an interval of zero width: the bootstrap cannot see a spread in it.
    """
    values = np.asarray(values, dtype=np.float64)
    assert values.ndim == 1 and len(values), "the bootstrap needs at least one episode"
    return _interval(values.mean(), _resampled_means(values[:, None], resamples, seed)[:, 0])


def ratio_interval(
    numerator: Float[ndarray, " e"], denominator: Float[ndarray, " e"], resamples: int, seed: int
) -> Interval:
    """mean(numerator) / mean(denominator) over paired crops, with its 95 % percentile bootstrap interval.

    Crops are drawn together, so what makes a crop hard for both cancels; a ratio of means, unlike a mean of ratios,
    is not ruled by the crops in which nothing happens.
    """
    pair = np.stack([np.asarray(numerator, np.float64), np.asarray(denominator, np.float64)], axis=1)
    assert len(pair), "the bootstrap needs at least one crop"
    tiny = np.finfo(np.float64).tiny  # a denominator of exactly 0 gives a huge ratio, not a NaN
    draws = _resampled_means(pair, resamples, seed)
    top, bottom = pair.mean(axis=0)
    return _interval(top / max(bottom, tiny), draws[:, 0] / np.maximum(draws[:, 1], tiny))


def statistic_interval(
    values: Float[ndarray, "e m"],
    statistic: Callable[[Float[ndarray, "*r m"]], Float[ndarray, "*r"]],
    resamples: int,
    seed: int,
) -> Interval:
    """A statistic of the columns' means over rows (a correlation of sums of products), with its 95 % interval.

    Draws for which it does not exist (NaN) are left out of the interval.
    """
    values = np.asarray(values, np.float64)
    assert values.ndim == 2 and len(values), "the bootstrap needs at least one row"
    estimate = float(statistic(values.mean(axis=0)))
    draws = statistic(_resampled_means(values, resamples, seed))
    draws = draws[np.isfinite(draws)]
    return _interval(estimate, draws) if len(draws) else Interval(estimate, estimate, estimate)
