"""What is easy to lose in the phases without anybody noticing: weights of steps, dropout, critic steps, loss scales."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fastdreamer.config import Config
from fastdreamer.latents.store import LatentStore
from fastdreamer.run.directory import RunDirectory
from fastdreamer.training.build import build_phase
from fastdreamer.training.optim import RunningScale
from fastdreamer.training.phase import Phase
from fastdreamer.training.train import train

from .conftest import BACKEND, one_loss

CPU = torch.device("cpu")


@pytest.fixture
def build(small: Callable[..., Config], new_run: Callable[..., Path]) -> Callable[..., Phase[Any]]:
    """Phase `number` on a run whose earlier phases are trained."""

    def built(number: int, *overrides: str) -> Phase[Any]:
        config = small(*overrides)
        run = RunDirectory(new_run(config, f"run{number}"))
        for phase in range(1, number):
            train(config, run.path, phase)
        store = LatentStore.open(run.path / "store")
        return build_phase(config, number, store, run.load(number - 1, config), BACKEND)

    return built


def test_critic_steps_train_the_value_head_alone(build: Callable[..., Phase[Any]]) -> None:
    phase = build(3, "imagination.critic_steps=2")
    for step, trains in ((1, False), (2, True)):
        phase.model.zero_grad()
        one_loss(phase, step)[0].backward()
        for name, expected in (("policy", trains), ("value", True)):
            gradients = [p.grad for p in phase.model.get_submodule(name).parameters() if p.grad is not None]
            assert any(bool(g.any()) for g in gradients) == expected, (step, name)


def test_dropout_blurs_cloning_but_never_imagination(build: Callable[..., Phase[Any]]) -> None:
    for number, blurs in ((2, True), (3, False)):
        phase = build(number, "heads.policy_dropout=0.5")
        phase.model.train()
        name = "agent.policy" if number == 2 else "policy"
        policy = phase.model.get_submodule(name)
        torch.nn.init.normal_(policy.net.out.weight)  # type: ignore[union-attr, arg-type]
        x = torch.randn(4, 256)
        assert torch.equal(policy(x), policy(x)) != blurs


def test_unknown_rewards_and_returns_weigh_nothing(
    build: Callable[..., Phase[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    phase = build(2, "heads.reward_reads=transition")
    seen: dict[str, Tensor] = {}
    agent = phase.agent  # type: ignore[attr-defined]
    for name in ("reward", "value"):
        head = agent.get_submodule(name)
        inner = head.loss

        def loss(logits: Tensor, targets: Tensor, weights: Tensor, name: str = name, inner: object = inner) -> Tensor:
            seen[name] = weights
            return inner(logits, targets, weights)  # type: ignore[operator, no-any-return]

        monkeypatch.setattr(head, "loss", loss)
    one_loss(phase, 0)
    assert not seen["reward"][:, 0].any() and seen["reward"][:, 1:].any()  # the step before the crop is not in it
    assert not seen["value"][:, -1].any() and seen["value"][:, :-1].any()  # nor is what follows its end


def test_a_loss_is_divided_by_its_own_detached_running_size() -> None:
    scale = RunningScale(["a", "b"], decay=0.9)
    assert [float(f) for f in scale.factors().values()] == [1.0, 1.0]
    for factor in (1.0, 1.0, 100.0):
        scale.update({"a": torch.tensor(3.0 * factor), "b": torch.tensor(1e-3 * factor)})
        a, b = scale.factors()["a"] * 3.0, scale.factors()["b"] * 1e-3
        torch.testing.assert_close(a, b)  # each weighs the same, whatever its size
        if factor == 1.0:
            torch.testing.assert_close(a, torch.tensor(1.0))
    squares = torch.tensor([9.0, 9.0, 9e4])
    weights = 0.1 * 0.9 ** torch.tensor([2.0, 1.0, 0.0])
    torch.testing.assert_close(1 / scale.factors()["a"], ((squares * weights).sum() / weights.sum()).sqrt())
