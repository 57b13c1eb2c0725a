"""A figure that is no number is never well: no comparison with it holds, so every check says red."""

from __future__ import annotations

import dataclasses
import inspect
import math
from typing import Any

import numpy as np
import pytest
import torch

from fastdreamer.config import Config
from fastdreamer.errors import UserError
from fastdreamer.evaluation.bootstrap import Interval
from fastdreamer.health import limits as flags
from fastdreamer.health.checks import Check
from fastdreamer.health.watch import checks_of
from fastdreamer.tools.diagnosis import dynamics_checks as dynamics
from fastdreamer.tools.diagnosis import gates
from fastdreamer.tools.diagnosis import imagined as rollouts
from fastdreamer.training.imagination_phase import Calibration

NAN = math.nan
SPAN = (1.0, 0.9, 1.1)
HEALTHY: dict[str, dict[str, Any]] = {
    "finite": {"phase": 1, "loss": 1.0},
    "gradient_norm": {"phase": 1, "norm": 1.0},
    "wait_share": {"share": 0.0},
    "cloning_accuracy": {"accuracy": 0.9, "majority": 0.5, "step": 1000},
    "policy_entropy": {"phase": 2, "nats": 2.0},
    "reward_spread": {"spread": 1.0, "recorded": 1.0},
    "reward_on_play": {"predicted": 1.0, "paid": 1.0, "low": 0.9},
    "value_on_play": {"value": 1.0, "earned": 1.0, "spread": 1.0},
    "advantages": {"mean": 0.0, "spread": 1.0},
    "advantage_sets": {"positive": 20.0, "negative": 20.0},
    "imagined_rewards": {"mean": 1.0, "spread": 1.0, "share": 0.5},
    "critic_fits": {"bias": 0.0, "bound": 1.0},
    "kl_to_prior": {"nats": 0.1},
    "action_ratio": {"mean": 1.2, "low": 1.1, "high": 1.3},
    "advantage_agreement": {"reliability": 0.9, "raw": (0.9, 0.8, 0.95), "disattenuated": None},
    "optimism": {"where": "play", "imagined": 1.0, "real": SPAN, "ratio": SPAN},
}
NOT_COMPARED = {("reward_spread", "recorded"), ("reward_on_play", "low"), ("critic_fits", "bound")}
NOT_COMPARED |= {("optimism", "imagined"), ("optimism", "real")}  # with a ratio they are only said
OTHERS = {"skipped_steps", "loss_curve", "reach", "section"}  # of whole numbers, or of those that are finite


def places() -> list[tuple[str, str, int]]:
    """(check, argument, place in it) of every number."""
    found = []
    for name, arguments in HEALTHY.items():
        for argument, value in arguments.items():
            if isinstance(value, tuple):
                found += [(name, argument, i) for i in range(len(value))]
            elif isinstance(value, float):
                found.append((name, argument, 0))
    return [place for place in found if place[:2] not in NOT_COMPARED]


def changed_to(bad: float, name: str, argument: str, place: int) -> Check:
    value = HEALTHY[name][argument]
    changed = tuple(bad if i == place else v for i, v in enumerate(value)) if isinstance(value, tuple) else bad
    found: Check = getattr(flags, name)(**HEALTHY[name] | {argument: changed})
    return found


def test_every_limit_is_here():
    made = {name for name, one in inspect.getmembers(flags, inspect.isfunction) if one.__module__ == flags.__name__}
    assert made == HEALTHY.keys() | OTHERS


@pytest.mark.parametrize("name", HEALTHY)
def test_the_healthy_figures_are_well(name):
    assert getattr(flags, name)(**HEALTHY[name]).verdict == "ok"


@pytest.mark.parametrize(("name", "argument", "place"), places())
def test_a_limit_is_red_for_what_is_no_number(name, argument, place):
    verdict = changed_to(NAN, name, argument, place).verdict
    assert verdict == ("too early" if argument == "reliability" else "red")
    if argument != "reliability":
        assert changed_to(math.inf, name, argument, place).verdict == "red"


def test_optimism_without_a_ratio_is_red_for_what_is_no_number():
    for imagined, real in ((NAN, SPAN), (1.0, (NAN, NAN, NAN))):
        assert flags.optimism("play", imagined, real, None).verdict == "red"


def test_the_other_checks_are_red_for_what_is_no_number():
    for place in range(3):
        values = [1.2, 1.1, 1.3]
        values[place] = NAN
        for name in ("shuffled actions", "actions a step late"):
            assert dynamics.control(name, Interval(*values)).verdict == "red"
    assert dynamics.drift(np.full((2, 3), NAN), np.ones((2, 3))).verdict == "red"
    assert dynamics.drift(np.ones((2, 3)), np.full((2, 3), NAN)).verdict == "red"
    assert rollouts.reality(NAN, 1.0).verdict == rollouts.reality(1.0, NAN).verdict == "red"
    values = torch.linspace(0, 1, 20).reshape(4, 5)
    rollout = rollouts.Imagined(values, values, values, torch.ones(4, 5), torch.zeros(4))
    assert rollouts.calibration(rollout).verdict == "ok"
    broken = values.clone()
    broken[1, 2] = NAN
    for name in ("values", "returns"):
        assert rollouts.calibration(dataclasses.replace(rollout, **{name: broken})).verdict == "red"
    assert rollouts.imagined_rewards(dataclasses.replace(rollout, rewards=broken)).verdict == "red"
    assert rollouts.imagined_rewards(rollout.of(1)).verdict == "not measured"  # another task's


def test_the_gate_before_phase_2_refuses_what_is_no_number(monkeypatch, capsys):
    monkeypatch.setattr(gates, "world_model_from", lambda *arguments: None)
    monkeypatch.setattr(gates, "actions_matter", lambda *arguments: flags.action_ratio(NAN, NAN, NAN))
    given: Any = (Config(), 2, None, None, torch.device("cpu"))
    with pytest.raises(UserError, match="phase 2 is refused: error under shuffled actions is nan"):
        gates.Gates()(*given)
    assert "nan (nan to nan): ok" not in capsys.readouterr().out
    assert [check.verdict for check in gates.Gates(force=True)(*given)] == ["red"]


def test_figures_that_stay_without_a_number_are_red_while_training():
    row = {"loss": 1.0, "skipped_steps": 0.0, "grad_norm": 1.0, "imagined_reward": 1.0, "imagined_reward_std": 1.0}
    row |= {"imagined_reward_share": 0.5, "entropy": NAN, "kl_prior": NAN, "advantage_mean": NAN, "advantage_std": NAN}
    row |= {"positive": NAN, "negative": NAN, "calibrated": 1.0, "critic_bias": NAN}
    rows = [row | {"step": 10_000.0 + i} for i in range(8)]
    red = {check.name for check in checks_of(Config(), 3, rows) if check.verdict == "red"}
    assert {"policy entropy", "KL to the cloned policy", "advantages", "D+ and D-"} <= red


def test_a_critic_does_not_fit_by_advantages_that_are_no_numbers():
    calibration = Calibration(0.5)
    calibration.see(torch.full((2, 3), NAN))
    calibration.see(torch.zeros(2, 3), skipped=torch.tensor(True))
    assert not bool(calibration.opened)
    calibration.see(torch.tensor([[1.0, -1.0, 1.0], [-1.0, 1.0, -1.0]]))
    assert bool(calibration.opened)
