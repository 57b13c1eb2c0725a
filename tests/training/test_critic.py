"""The critic of phase 3: when it fits, its slow copy, its own learning rate."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fastdreamer.config import TrainConfig, load_config
from fastdreamer.health.watch import checks_of
from fastdreamer.training.imagination_phase import Calibration, SlowCopy
from fastdreamer.training.optim import build_optimizers


def test_a_biased_critic_is_not_calibrated_and_stays_so_until_the_bias_is_gone() -> None:
    calibration, generator = Calibration(0.2), torch.Generator().manual_seed(0)
    for _ in range(20):
        calibration.see(torch.randn(64, 12, generator=generator) - 1.0)
    assert not calibration.opened and float(calibration.share) == pytest.approx(0.7, abs=0.1)
    for _ in range(20):
        calibration.see(torch.randn(64, 12, generator=generator))
    assert calibration.opened
    for _ in range(20):
        calibration.see(torch.randn(64, 12, generator=generator) - 1.0)
    assert calibration.opened, "it stays open"


def test_without_a_bound_it_is_open_from_the_start() -> None:
    assert Calibration(0.0).opened


def test_a_calibration_goes_on_from_its_state() -> None:
    one, other = Calibration(0.2), Calibration(0.2)
    one.see(torch.ones(2, 3))
    other.load_state_dict(one.state_dict())
    one.see(torch.full((2, 3), -2.0))
    other.see(torch.full((2, 3), -2.0))
    assert torch.equal(one.share, other.share)


def test_a_slow_copy_changes_by_following_alone() -> None:
    module = nn.Linear(3, 2)
    copy = SlowCopy(module, 0.9)
    before = copy.module.weight.clone()
    with torch.no_grad():
        module.weight.add_(1.0)
    assert torch.equal(copy.module.weight, before)
    copy.follow(module)
    torch.testing.assert_close(copy.module.weight, before + 0.1)
    assert not any(p.requires_grad for p in copy.parameters())


def test_parameters_have_the_rate_of_their_name() -> None:
    model = nn.ModuleDict({"policy": nn.Linear(3, 2), "value": nn.Linear(3, 2)})
    (optimizer,) = build_optimizers(model.named_parameters(), TrainConfig(), {"value.": 4.0})
    rates = {id(p): group["rate"] for group in optimizer.param_groups for p in group["params"]}
    assert [rates[id(p)] for p in model["policy"].parameters()] == [1.0, 1.0]
    assert [rates[id(p)] for p in model["value"].parameters()] == [4.0, 4.0]


@pytest.mark.parametrize(("step", "calibrated", "says"), [(4, 0.0, True), (4, 1.0, False), (2, 0.0, False)])
def test_a_critic_that_never_fitted_the_policy_is_said_after_half_of_the_phase(
    step: int, calibrated: float, says: bool
) -> None:
    config = load_config("debug", ["imagination.critic_bias=0.2", "phase3.steps=6"])
    row = {
        "step": float(step), "loss": 1.0, "grad_norm": 1.0, "skipped_steps": 0.0, "imagined_reward": 0.1,
        "imagined_reward_std": 0.1, "imagined_reward_share": 0.5, "entropy": 10.0, "kl_prior": 0.01, "critic_bias": 0.5,
        "calibrated": calibrated, "advantage_mean": 0.0, "advantage_std": 1.0, "positive": 20.0, "negative": 20.0,
    }  # fmt: skip
    raised = [check.name for check in checks_of(config, 3, [row]) if check.is_raised]
    assert ("critic before the policy moves" in raised) is says
