"""Shortcut forcing and sampling: the mathematics, pinned."""

from __future__ import annotations

import pytest
import torch

from fastdreamer.config import ForcingConfig
from fastdreamer.dynamics.forcing import (
    Levels,
    boot_target,
    context_index,
    draw_levels,
    forcing_loss,
    loss_shares,
    mix,
    ramp,
)
from fastdreamer.dynamics.sampler import integrate

FORCING = ForcingConfig(finest_steps=16, sample_steps=4)


@pytest.mark.parametrize(("steps", "expected"), [(4, 0.497), (64, 0.685), (512, 0.698)])
def test_sampler_follows_the_ideal_field_to_the_data_distribution(steps: int, expected: float) -> None:
    mean, spread = 0.3, 0.7

    def ideal(z: torch.Tensor, i: int) -> torch.Tensor:
        tau = i / steps
        gain = tau * spread**2 / ((1 - tau) ** 2 + tau**2 * spread**2)
        return mean + gain * (z - tau * mean)

    # The map is linear, so its action on N(0, 1) is known from two points; no sampling error.
    ends = integrate(ideal, torch.tensor([0.0, 1.0], dtype=torch.float64), steps)
    assert abs(float(ends[1] - ends[0]) - expected) < 2e-3
    assert abs(float(ends[0]) - mean) < 1e-6


def test_last_sampling_step_returns_the_prediction_exactly() -> None:
    predicted = torch.randn(5)
    assert torch.equal(integrate(lambda z, i: predicted, torch.randn(5), 4), predicted)


def test_levels_lie_on_the_grid_and_half_steps_on_the_finer_one() -> None:
    levels = draw_levels(4000, 5, 16, 2000, torch.Generator().manual_seed(0))
    size = 2**levels.step_size
    assert torch.equal(levels.signal % size, torch.zeros_like(levels.signal))
    assert bool((levels.signal + size <= 16).all()), "tau may not exceed 1 - d"
    assert torch.equal(levels.is_boot[:, None].expand(-1, 5), levels.step_size > 0)
    assert set(levels.step_size.unique().tolist()) == {0, 1, 2, 3, 4}
    for exponent in range(5):
        taus = levels.signal[levels.step_size == exponent].unique().tolist()
        assert taus == list(range(0, 16, 2**exponent)), f"every tau of d = 2^{exponent}/16 is drawn"


def test_the_first_sequences_are_bootstrap_and_no_others() -> None:
    levels = draw_levels(100, 2, 16, 25, torch.Generator().manual_seed(1))
    assert levels.is_boot.tolist() == [True] * 25 + [False] * 75
    assert not draw_levels(100, 2, 16, 0, torch.Generator().manual_seed(1)).is_boot.any()


def _levels(is_boot: bool) -> Levels:
    levels = draw_levels(6, 3, 16, 6 if is_boot else 0, torch.Generator().manual_seed(2))
    assert bool(levels.is_boot.all()) is is_boot
    return levels


def test_constant_prediction_is_a_fixed_point_of_the_boot_loss() -> None:
    constant, levels = torch.randn(4, 2), _levels(True)
    losses = forcing_loss(
        lambda z, s, d, r: constant.expand_as(z),
        torch.randn(6, 3, 4, 2),
        torch.randn(6, 3, 4, 2),
        levels,
        16,
        torch.ones(6, 3),
    )
    assert float(losses["boot"]) < 1e-10


def test_both_forms_of_the_boot_loss_are_equal_elementwise() -> None:
    levels, weight = _levels(True), torch.randn(2, 2)
    tau = (levels.signal / 16)[..., None, None]
    noisy = mix(torch.randn(6, 3, 4, 2), torch.randn(6, 3, 4, 2), tau)

    def predict(z: torch.Tensor, s: torch.Tensor, d: torch.Tensor, rows: slice) -> torch.Tensor:
        return torch.tanh(z @ weight) + 0.1 * s[..., None, None] + 0.2 * d[..., None, None]

    everyone = slice(0, 6)
    target = boot_target(predict, noisy, levels, 16)
    prediction = predict(noisy, levels.signal, levels.step_size, everyone)
    ours = (prediction - target).square()
    half = levels.step_size - 1
    d = (2.0**half / 16)[..., None, None]
    b1 = (predict(noisy, levels.signal, half, everyone) - noisy) / (1 - tau)
    middle = noisy + b1 * d
    b2 = (predict(middle, levels.signal + 2**half, half, everyone) - middle) / (1 - tau - d)
    papers = (1 - tau).square() * ((prediction - noisy) / (1 - tau) - (b1 + b2) / 2).square()
    torch.testing.assert_close(ours, papers, rtol=1e-4, atol=1e-5)


def test_flow_loss_ignores_steps_that_are_not_valid() -> None:
    clean, noise, levels = torch.randn(6, 3, 4, 2), torch.randn(6, 3, 4, 2), _levels(False)
    valid = torch.ones(6, 3, dtype=torch.bool)
    valid[:, 1] = False
    spoiled = clean.clone()
    spoiled[:, 1] = 1e6

    shares = loss_shares(levels, 16, valid)
    torch.testing.assert_close(shares.sum(), (ramp(levels.signal / 16)[valid]).mean())

    def loss(z1: torch.Tensor) -> float:
        return float(forcing_loss(lambda z, s, d, r: torch.zeros_like(z), z1, noise, levels, 16, shares)["dynamics"])

    assert loss(clean) == loss(spoiled)


def test_half_steps_run_on_boot_rows_only_and_without_gradient() -> None:
    levels = draw_levels(40, 2, 16, 12, torch.Generator().manual_seed(3))
    calls: list[tuple[int, bool]] = []

    def predict(z: torch.Tensor, s: torch.Tensor, d: torch.Tensor, rows: slice) -> torch.Tensor:
        calls.append((rows.stop - rows.start, torch.is_grad_enabled()))
        return z

    clean = torch.randn(40, 2, 4, 2)
    forcing_loss(predict, clean, torch.randn_like(clean), levels, 16, torch.ones(40, 2))
    boots = int(levels.is_boot.sum())
    assert calls == [(40, True), (boots, False), (boots, False)]


def test_context_level_is_snapped_to_the_grid() -> None:
    assert context_index(ForcingConfig()) == 58
    assert context_index(ForcingConfig(context_signal=1.0)) == 63
