"""Every cause in phases 2 and 3, planted in a trained run, raises its own flag, as in test_limits.py."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from torch import Tensor

from diagnosis.conftest import edit_checkpoint, found, raised
from diagnosis.test_limits import Usual, check
from fastdreamer.config import Config


def collapse(name: str) -> Callable[[dict[str, Tensor]], None]:
    def change(tensors: dict[str, Tensor]) -> None:
        tensors[f"{name}.net.out.weight"].zero_()
        tensors[f"{name}.net.out.bias"].zero_()[0] = 30.0

    return change


def test_a_collapsed_policy(config: Config, run: Path, usual: Usual) -> None:
    edit_checkpoint(run, 2, "ema", collapse("agent.policy"))
    check(config, run, usual, 2, ("policy", "policy entropy"), set(), "heads.policy_dropout")
    assert ("policy", "certain everywhere") in raised(found(config, run, 2))


def test_a_policy_that_converged_too_early(config: Config, run: Path, usual: Usual) -> None:
    edit_checkpoint(run, 3, "ema", collapse("policy"))
    check(config, run, usual, 3, ("policy", "policy entropy"), {"prior", "advantage", "value"}, "imagination.beta")
    assert ("prior", "KL to the cloned policy") in raised(found(config, run, 3))


def deaden(tensors: dict[str, Tensor]) -> None:
    for name in [name for name in tensors if "reward.net.out" in name]:
        tensors[name].fill_(1e-9)


def test_a_dead_reward_head(config: Config, run: Path, usual: Usual) -> None:
    edit_checkpoint(run, 2, "ema", deaden)
    check(config, run, usual, 2, ("reward", "spread of predicted rewards"), set(), "sampling.reward_weighted")


def test_imagined_rewards_that_are_always_nothing(config: Config, run: Path, usual: Usual) -> None:
    def nothing(tensors: dict[str, Tensor]) -> None:
        deaden(tensors)
        tensors["reward.net.out.bias"][20] = 50.0  # the bin of 0

    edit_checkpoint(run, 3, "frozen-agent", nothing)
    also = {"advantage", "value", "models"}
    check(config, run, usual, 3, ("imagination", "imagined rewards"), also, "group reward")


def test_no_imagined_step_is_better_than_another(config: Config, run: Path, usual: Usual) -> None:
    def nothing(tensors: dict[str, Tensor]) -> None:
        for name in [n for n in tensors if n.startswith(("reward.net.out", "value.net.out"))]:
            tensors[name].fill_(1e-9)
            if name.endswith("bias"):
                tensors[name][20] = 50.0

    edit_checkpoint(run, 3, "frozen-agent", nothing)
    edit_checkpoint(run, 3, "ema", nothing)
    also = {"imagination", "value", "gradient"}
    check(config, run, usual, 3, ("advantage", "advantages"), also, "group reward")


def test_too_few_steps_in_both_sets(config: Config, run: Path, usual: Usual) -> None:
    small = replace(config, phase3=replace(config.phase3, batch_size=2))
    small = replace(small, imagination=replace(config.imagination, horizon=2))
    check(small, run, usual, 3, ("advantage", "D+ and D-"), {"value"}, "raise phase3.batch_size")


def test_a_critic_that_is_off(config: Config, run: Path, usual: Usual) -> None:
    def shift(tensors: dict[str, Tensor]) -> None:
        tensors["value.net.out.bias"][40] += 40.0  # the highest bin

    edit_checkpoint(run, 3, "ema", shift)
    check(config, run, usual, 3, ("value", "value against returns"), {"advantage", "gradient"}, "critic_steps")


@pytest.mark.parametrize(("mean", "is_raised"), [(0.0, True), (1000.0, False)])
def test_rewards_that_are_only_imagined(config: Config, run: Path, usual: Usual, mean: float, is_raised: bool) -> None:
    played = {"policies": {"phase3": {"return_mean": mean, "length_mean": 100.0}}}
    (run / "evaluation.json").write_text(json.dumps(played))
    checks = found(config, run, 3)
    assert usual(3)["imagination", "imagined against real reward"]["verdict"] == "not measured"
    flag = checks["imagination", "imagined against real reward"]
    assert (flag["verdict"] in ("amber", "red")) == is_raised == ("exploits the reward head" in flag["remedy"])
    assert {group for group, _ in raised(checks) - raised(usual(3))} <= {"imagination"}
