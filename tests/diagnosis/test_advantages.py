"""Figures of an audit: on made-up tries where imagination is right, and where it is not."""

from __future__ import annotations

import numpy as np
import pytest
from jaxtyping import Float
from numpy import ndarray

from fastdreamer.health import limits as flags
from fastdreamer.tools.diagnosis.advantages import Figures, advantages, measure

STATES, ACTIONS = 24, 9
UNIFORM = np.full((STATES, ACTIONS), 1 / ACTIONS)


def tries(
    noise: float, count: int = 8, seed: int = 1, scale: float = 1.0, shuffled: bool = False
) -> Float[ndarray, "s a r"]:
    """Returns around a true worth of every action, which has a spread of 1."""
    worth = 2 + np.random.default_rng(0).normal(size=(STATES, ACTIONS))
    rng = np.random.default_rng(seed)
    if shuffled:
        worth = rng.permuted(worth, axis=1)
    return np.asarray(scale * worth[:, :, None] + noise * rng.normal(size=(STATES, ACTIONS, count)))


def figures(real: ndarray, imagined: ndarray, policy: ndarray = UNIFORM) -> Figures:
    return measure(real, imagined, (real, imagined), policy, 500, 0)


def test_imagination_that_is_exact_agrees_and_its_favourite_gains() -> None:
    found = figures(tries(0.05), tries(0.05, seed=2))
    assert found.correlation.mean > 0.99 and found.correlation.low > 0.98
    assert found.optimism is not None and found.optimism.mean == pytest.approx(1, abs=0.02)
    assert found.real_reliability.mean > 0.99 and found.imagined_reliability.mean > 0.99
    assert found.gain_imagined.low > 1 and found.gain_imagined.mean == pytest.approx(found.gain_best.mean, abs=0.05)


def test_imagination_that_is_shuffled_does_not_and_gains_nothing() -> None:
    found = figures(tries(0.05), tries(0.05, seed=2, shuffled=True))
    assert abs(found.correlation.mean) < 0.2 and found.correlation.low < 0 < found.correlation.high
    assert found.imagined_reliability.mean > 0.99, "sure of itself, and wrong"
    assert abs(found.gain_imagined.mean) < 0.5 < found.gain_best.low


def test_noise_lowers_the_correlation_and_disattenuation_takes_it_back() -> None:
    noise = 2.0  # over 8 tries half the variance of the means
    found = figures(tries(noise), tries(noise, seed=2))
    assert found.real_reliability.mean == pytest.approx(1 / (1 + noise**2 / 8), abs=0.08)
    assert found.correlation.mean == pytest.approx(1 / (1 + noise**2 / 8), abs=0.12)
    assert found.disattenuated is not None and found.disattenuated.mean == pytest.approx(1, abs=0.12)
    more = figures(tries(noise, count=64), tries(noise, count=64, seed=2))
    assert more.correlation.mean > 0.9 and more.real_reliability.mean > 0.9


def test_pure_noise_is_reliable_in_nothing_and_the_best_action_is_not_measured_on_what_chose_it() -> None:
    rng = np.random.default_rng(3)
    real, imagined = rng.normal(size=(2, STATES, ACTIONS, 8))
    found = figures(real, imagined)
    assert abs(found.real_reliability.mean) < 0.35 and found.real_reliability.low < 0.1
    assert found.gain_best.low < 0.1 and abs(found.gain_best.mean) < 0.15
    chosen = real.mean(2).max(1).mean() - real.mean()
    assert chosen > 0.4, "measured on the same tries it would have looked like a gain"
    assert figures(real - 0.1, imagined).optimism is None and "optimism" in found.to_dict()


def test_gains_are_over_what_the_policy_does_on_average() -> None:
    real = tries(0.0)
    sure = np.eye(ACTIONS)[real.mean(2).argmax(1)]
    found = figures(real, real, sure)
    assert found.gain_imagined.mean == found.gain_mode.mean == found.gain_best.mean == 0
    against = figures(real, -real, sure)
    assert against.correlation.mean == pytest.approx(-1) and against.gain_imagined.high < -1


def test_an_optimist_is_seen_and_an_imagination_of_nothing_is_no_error() -> None:
    found = figures(tries(0.1), tries(0.1, seed=2, scale=2.5))
    assert found.optimism is not None and found.optimism.low > 2.3 and found.correlation.mean > 0.98
    nothing = figures(tries(0.1), np.zeros((STATES, ACTIONS, 8)))
    assert nothing.correlation.mean == 0 and nothing.disattenuated is None


def test_advantages_have_no_mean() -> None:
    assert np.allclose(advantages(tries(1.0)).mean(1), 0)


# --- verdicts


@pytest.mark.parametrize(
    ("reliability", "raw", "disattenuated", "verdict", "said"),
    [
        (0.5, (0.5, 0.3, 0.6), None, "ok", "as measured"),
        (0.5, (0.3, 0.2, 0.5), (0.6, 0.4, 0.9), "ok", "without noise"),
        (0.5, (0.3, 0.2, 0.5), None, "amber", "as measured"),
        (0.5, (-0.1, -0.2, 0.1), (-0.2, -0.4, 0.2), "red", "-0.10"),
        (0.1, (0.5, 0.3, 0.6), None, "too early", "cannot tell"),
    ],
)
def test_the_agreement_of_advantages(
    reliability: float, raw: flags.Span, disattenuated: flags.Span | None, verdict: str, said: str
) -> None:
    check = flags.advantage_agreement(reliability, raw, disattenuated)
    assert check.verdict == verdict and said in check.value
    assert ("more tries" in check.remedy) == (verdict == "too early")
    assert ("phase 1 longer" in check.remedy) == (verdict in ("amber", "red"))


@pytest.mark.parametrize(
    ("imagined", "real", "ratio", "verdict", "remedy"),
    [
        (1.0, (1.0, 0.9, 1.1), (1.0, 0.9, 1.2), "ok", ""),
        (1.6, (1.0, 0.5, 1.5), (1.6, 1.1, 3.0), "amber", "imagination.beta"),
        (2.5, (1.0, 0.9, 1.1), (2.5, 2.2, 2.8), "red", "imagination.beta"),
        (0.2, (1.0, 0.9, 1.1), (0.2, 0.1, 0.3), "red", "reward_weighted"),
        (0.9, (0.0, -0.1, 0.1), None, "red", "imagination.beta"),
        (0.0, (0.0, -0.1, 0.1), None, "too early", "--states"),
    ],
)
def test_optimism(imagined: float, real: flags.Span, ratio: flags.Span | None, verdict: str, remedy: str) -> None:
    check = flags.optimism("its own play", imagined, real, ratio)
    assert check.verdict == verdict and remedy in check.remedy
