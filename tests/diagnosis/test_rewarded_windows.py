"""Windows with a reward and without one, and what dreams of them are paid."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from fastdreamer.config import Config
from fastdreamer.latents.batch import Batch
from fastdreamer.tools.diagnosis import cloning
from fastdreamer.tools.diagnosis.cloning import windows

from .conftest import Found, found

KEY = ("imagination", "dreams of rewarded play")


def episode(rewards: list[float]) -> Batch:
    steps = len(rewards)
    flags = torch.ones(1, steps, dtype=torch.bool)
    chunk, known = torch.zeros(1, steps, 1, 1, dtype=torch.int64), flags[..., None]
    return Batch(
        torch.zeros(1, steps, 16, 16), torch.zeros(1, steps, dtype=torch.int64), flags, chunk, known, chunk, known,
        torch.tensor([rewards]), torch.ones(1, steps), flags, flags[:, 0], torch.zeros(1, dtype=torch.int64),
    )  # fmt: skip


def test_windows_are_sorted_by_what_is_paid_after_the_context() -> None:
    paid, unpaid = windows([episode([1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0])], context=2, horizon=2)
    assert [w.rewards.tolist() for w in paid] == [[[0.0, 0.0, 0.0, 1.0]]]
    assert [w.rewards.tolist() for w in unpaid] == [[[1.0, 0.0, 0.0, 0.0]]]


def test_a_trained_run_tells_rewarded_play_from_other_in_its_dreams(usual: Callable[[int], Found]) -> None:
    check = usual(2)[KEY]
    assert check["verdict"] == "ok", check
    for words in ("AUC on real states 0.9", "imagined states 0.", "changes of value"):
        assert words in check["value"]


def test_dreams_that_pay_for_nothing_are_said(config: Config, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unmoved(world: object, batch: Batch, context: int, generator: torch.Generator) -> torch.Tensor:
        return torch.zeros_like(batch.latents)

    monkeypatch.setattr(cloning, "open_loop", unmoved)
    check = found(config, run, 2)[KEY]
    assert check["verdict"] == "amber" and "do not pay what play pays" in check["remedy"], check
    monkeypatch.setattr(cloning, "FEW", 10_000)
    assert found(config, run, 2)[KEY]["verdict"] == "too early"


def test_a_reward_head_that_tells_nothing_is_not_blamed_on_dreams(
    config: Config, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def alike(agent: object, features: torch.Tensor, batch: Batch) -> torch.Tensor:
        return torch.zeros_like(batch.rewards)

    monkeypatch.setattr(cloning, "predicted_rewards", alike)
    assert found(config, run, 2)[KEY]["verdict"] == "not measured"
