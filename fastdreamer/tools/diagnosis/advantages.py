"""How well imagination knows what an action is worth: figures from tries, each with its interval over moments.

An action's advantage is its mean return over tries less the mean over all actions of the moment. Advantages are
measured with noise, in both worlds, and noise lowers their correlation; so their reliability is measured too: the
correlation of halves of the tries, stepped up to all of them. Over moments everything is a function of sums of
products, because advantages have mean 0 in every moment.

Source: Spearman (1910) and Brown (1910) for the reliability of the whole from its halves; Spearman (1904) for the
correlation that two measures would have without their noise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from fastdreamer.evaluation.bootstrap import Interval, mean_interval, statistic_interval

SPLITS = 32  # random halvings of the tries
LEAST = 0.05  # a reliability below says nothing of what noise hides
NOTHING = 1e-3  # a real return that may be below is no base for a ratio

Returns = Float[ndarray, "s a r"]


@dataclass(frozen=True)
class Figures:
    """Figures of one kind of moments. `gain_*`: in the real game, over the policy's average action.

    Attributes:
        real: mean return of a try in the game; `imagined` in imagination.
        real_sum: the same without discount; `imagined_sum` alike.
        optimism: imagined over real; None where the real one may be 0 or less.
        real_reliability: reliability of the real advantages; `imagined_reliability` alike.
        correlation: correlation of real with imagined advantages, as measured.
        disattenuated: the correlation without the noise of both; None where a reliability is too small to tell.
        gain_imagined: gain of imagination's favourite action.
        gain_best: gain of the action that is best in half of the tries, measured on the other half.
        gain_mode: gain of the policy's likeliest action.
    """

    real: Interval
    imagined: Interval
    real_sum: Interval
    imagined_sum: Interval
    optimism: Interval | None
    real_reliability: Interval
    imagined_reliability: Interval
    correlation: Interval
    disattenuated: Interval | None
    gain_imagined: Interval
    gain_best: Interval
    gain_mode: Interval

    def to_dict(self) -> dict[str, dict[str, float] | None]:
        """The figures by name, for JSON."""
        return asdict(self)


def measure(
    real: Returns,
    imagined: Returns,
    sums: tuple[Returns, Returns],
    policy: Float[ndarray, "s a"],
    resamples: int,
    seed: int,
) -> Figures:
    """Measure all figures, from discounted returns, both sums without discount, and how likely each action is."""
    halves = [_halves(returns.shape[2], seed) for returns in (real, imagined)]
    a, b = advantages(real), advantages(imagined)
    products = np.stack([(a * b).sum(1), (a * a).sum(1), (b * b).sum(1)], 1)
    whole = np.concatenate([products, _half_products(real, halves[0]), _half_products(imagined, halves[1])], 1)
    means = np.stack([imagined.mean((1, 2)), real.mean((1, 2))], 1)

    def of(values: ndarray) -> Interval:
        return mean_interval(values, resamples, seed)

    def from_products(statistic: Callable[[ndarray], ndarray]) -> Interval:
        return statistic_interval(whole, statistic, resamples, seed)

    game = of(means[:, 1])
    reliabilities = [from_products(lambda m, i=i: _reliability(m[..., i : i + 3])) for i in (3, 6)]  # type: ignore[misc]
    tells = all(r.mean >= LEAST for r in reliabilities)
    return Figures(
        real=game,
        imagined=of(means[:, 0]),
        real_sum=of(sums[0].mean((1, 2))),
        imagined_sum=of(sums[1].mean((1, 2))),
        optimism=statistic_interval(means, _ratio, resamples, seed) if game.low > NOTHING else None,
        real_reliability=reliabilities[0],
        imagined_reliability=reliabilities[1],
        correlation=from_products(_correlation),
        disattenuated=from_products(_disattenuated) if tells else None,
        gain_imagined=of(gain(real, b.argmax(1), policy)),
        gain_best=of(best_gain(real, policy, halves[0])),
        gain_mode=of(gain(real, policy.argmax(1), policy)),
    )


def advantages(returns: Returns) -> Float[ndarray, "s a"]:
    """Advantage of every action, in its moment."""
    means = returns.mean(2)
    return np.asarray(means - means.mean(1, keepdims=True))


def gain(returns: Returns, chosen: Int[ndarray, " s"], policy: Float[ndarray, "s a"]) -> Float[ndarray, " s"]:
    """Return of a chosen action less that of the policy's average one."""
    means = returns.mean(2)
    return np.asarray(means[np.arange(len(means)), chosen] - (policy * means).sum(1) / policy.sum(1))


def best_gain(returns: Returns, policy: Float[ndarray, "s a"], halves: list[ndarray]) -> Float[ndarray, " s"]:
    """Gain of the action that is best in one half of the tries, in the other half; the mean over halvings."""
    found = []
    for half in halves:
        one, other = returns[:, :, half], np.delete(returns, half, axis=2)
        found += [gain(other, one.mean(2).argmax(1), policy), gain(one, other.mean(2).argmax(1), policy)]
    return np.asarray(np.mean(found, axis=0))


def _halves(tries: int, seed: int) -> list[ndarray]:
    """Numbers of the tries in the first half, for every halving."""
    rng = np.random.default_rng(seed)
    return [np.sort(rng.permutation(tries)[: tries // 2]) for _ in range(SPLITS)]


def _half_products(returns: Returns, halves: list[ndarray]) -> Float[ndarray, "s 3"]:
    """Sums of products of the two halves' advantages, over actions and halvings."""
    total = np.zeros((len(returns), 3))
    for half in halves:
        a, b = advantages(returns[:, :, half]), advantages(np.delete(returns, half, axis=2))
        total += np.stack([(a * b).sum(1), (a * a).sum(1), (b * b).sum(1)], 1)
    return total


def _correlation(products: Float[ndarray, "*r m"]) -> Float[ndarray, "*r"]:
    """Correlation from the sums of ab, aa and bb; 0 where one side never varies."""
    ab, size = products[..., 0], np.sqrt(products[..., 1] * products[..., 2])
    return np.where(size > 1e-12, ab / np.maximum(size, 1e-12), 0.0)


def _reliability(products: Float[ndarray, "*r 3"]) -> Float[ndarray, "*r"]:
    """Reliability of all tries, from the correlation of their halves."""
    half = _correlation(products)
    return np.maximum(2 * half / np.maximum(1 + half, LEAST), -1.0)


def _disattenuated(products: Float[ndarray, "*r 9"]) -> Float[ndarray, "*r"]:
    noise = [np.maximum(_reliability(products[..., i : i + 3]), LEAST) for i in (3, 6)]
    return np.asarray(_correlation(products[..., :3]) / np.sqrt(noise[0] * noise[1]))


def _ratio(means: Float[ndarray, "*r 2"]) -> Float[ndarray, "*r"]:
    return np.asarray(means[..., 0] / np.maximum(means[..., 1], NOTHING))
