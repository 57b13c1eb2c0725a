"""Percentile bootstrap intervals: of a mean over episodes, a ratio over paired crops, any function of means.

Over seeds and worlds the bootstrap is hierarchical: seeds are drawn with replacement, then worlds within each drawn
seed; what was measured in one world stays together. The plain percentiles of these draws are not 95 % intervals: five
seeds drawn from themselves spread too little (they hold the truth 85 times in 100 where seeds differ), and the worlds'
noise counts twice (98 in 100 where they do not). So the draws are stretched about the estimate to the standard error
that the seeds' own values show, times what Student's t asks of so few.
Source: Davison & Hinkley 1997, Bootstrap Methods and their Application, section 3.8, for the two faults; Hesterberg
2015, arXiv:1411.5279, for the correction by t.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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


SEEDS_AND_WORLDS, WORLDS = "seeds and worlds", "worlds"
NORMAL = 1.959964
STUDENT = (12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622)  # 97.5 % point at 1 .. 9 degrees


@dataclass(frozen=True)
class Estimate:
    """A figure's estimate over all seeds.

    Attributes:
        over: what the interval speaks for: seeds and worlds, or with one seed the worlds alone.
        by_seed: the figure of every seed.
    """

    interval: Interval
    over: str
    by_seed: tuple[float, ...]

    @property
    def positive(self) -> int:
        """How many seeds are above 0."""
        return sum(value > 0 for value in self.by_seed)

    def to_dict(self) -> dict[str, object]:
        """The estimate as plain numbers, for JSON."""
        return {**self.interval.to_dict(), "over": self.over, "by_seed": list(self.by_seed), "positive": self.positive}


def hierarchical_mean(seeds: Sequence[Float[ndarray, " w"]], resamples: int, seed: int) -> Estimate:
    """The mean over seeds of the mean over their worlds; every seed counts the same, however many worlds it played."""
    means = tuple(float(np.mean(values)) for values in seeds)
    if len(seeds) == 1:
        return Estimate(mean_interval(seeds[0], resamples, seed), WORLDS, means)
    draws = _drawn_means([np.asarray(values, np.float64)[:, None] for values in seeds], resamples, seed)[:, 0]
    return Estimate(_stretched(float(np.mean(means)), draws, np.asarray(means)), SEEDS_AND_WORLDS, means)


def hierarchical_ratio(
    numerators: Sequence[Float[ndarray, " w"]], denominators: Sequence[Float[ndarray, " w"]], resamples: int, seed: int
) -> Estimate | None:
    """Mean over seeds of the numerator over that of the denominator, worlds paired.

    None where a seed's denominator is not above 0 on average: a ratio then says nothing.
    """
    pairs = [
        np.stack([np.asarray(a, np.float64), np.asarray(b, np.float64)], axis=1)
        for a, b in zip(numerators, denominators, strict=True)
    ]
    means = np.stack([pair.mean(axis=0) for pair in pairs])
    if (means[:, 1] <= 0).any():
        return None
    by_seed = tuple(float(value) for value in means[:, 0] / means[:, 1])
    if len(pairs) == 1:
        return Estimate(ratio_interval(pairs[0][:, 0], pairs[0][:, 1], resamples, seed), WORLDS, by_seed)
    draws = _drawn_means(pairs, resamples, seed)
    top, bottom = means.mean(axis=0)
    ratio = top / bottom
    tiny = np.finfo(np.float64).tiny
    linear = (means[:, 0] - ratio * means[:, 1]) / bottom  # what each seed moves the ratio by, to first order
    interval = _stretched(float(ratio), draws[:, 0] / np.maximum(draws[:, 1], tiny), linear)
    return Estimate(interval, SEEDS_AND_WORLDS, by_seed)


def student(degrees: int) -> float:
    """The 97.5 % point of Student's t."""
    if degrees <= len(STUDENT):
        return STUDENT[degrees - 1]
    z = NORMAL  # Cornish-Fisher: to 0.003 from here on
    return z + (z**3 + z) / (4 * degrees) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * degrees**2)


def _drawn_means(seeds: Sequence[Float[ndarray, "w m"]], resamples: int, seed: int) -> Float[ndarray, "r m"]:
    """Means over drawn seeds of the means over worlds drawn within each."""
    rng = np.random.default_rng(seed)
    count = len(seeds)
    totals = np.zeros((resamples, seeds[0].shape[1]))
    for _ in range(count):
        chosen = rng.integers(0, count, resamples)
        for index, values in enumerate(seeds):
            rows = np.flatnonzero(chosen == index)
            totals[rows] += values[rng.integers(0, len(values), (len(rows), len(values)))].mean(axis=1)
    return totals / count


def _stretched(estimate: float, draws: Float[ndarray, " r"], by_seed: Float[ndarray, " s"]) -> Interval:
    """The percentiles of the draws, stretched about the estimate to Student's interval of the seeds' own spread."""
    count = len(by_seed)
    wanted = student(count - 1) / NORMAL * float(np.std(by_seed, ddof=1)) / np.sqrt(count)
    spread = float(np.std(draws))
    factor = wanted / spread if spread > 0 else 0.0
    low, high = (estimate + factor * (float(np.quantile(draws, share)) - estimate) for share in (0.025, 0.975))
    return Interval(estimate, low, high)
