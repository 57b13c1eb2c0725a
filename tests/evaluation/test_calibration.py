"""Predicted against paid reward, and values against returns, with heads whose right answers are known."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fastdreamer.config import Config, EvaluationConfig, load_config
from fastdreamer.dynamics.world_model import WorldModel
from fastdreamer.evaluation import calibration as module
from fastdreamer.evaluation.calibration import auc, calibrate, judge, ratio
from fastdreamer.evaluation.imagined_rewards import reward_correlation
from fastdreamer.heads.agent import Agent as RealAgent
from fastdreamer.latents.batch import Batch, align
from fastdreamer.latents.store import Episode
from fastdreamer.shapes import LatentClock

GAMMA, HORIZON = 0.5, 3


@dataclass
class World:
    """As far as features of real play need one; latents are as they should be."""

    clock: LatentClock = field(default_factory=lambda: LatentClock(1, 1))
    mean: Tensor = field(default_factory=lambda: torch.zeros(1))
    config: Any = field(default_factory=lambda: SimpleNamespace(context=2))

    def eval(self) -> World:
        return self

    def denormalise(self, latents: Tensor, positions: Tensor) -> Tensor:
        return latents


class Agent:
    """Predicts the reward that the first number of a latent says, and the value that the second says."""

    agent_tokens = 0
    value = SimpleNamespace(is_trained=True)

    def eval(self) -> Agent:
        return self

    def sequence_features(self, world: World, batch: Batch, noise: Tensor) -> Tensor:
        assert noise.shape == (len(batch.latents), 0)
        return batch.latents.flatten(2)

    def recorded_rewards(self, features: Tensor, batch: Batch) -> Tensor:
        return features[..., 0]

    def returns_decoded(self, features: Tensor) -> Tensor:
        return features[..., 1]


def config() -> Config:
    default = Config()
    imagination = replace(default.imagination, gamma=GAMMA, horizon=HORIZON)
    return replace(default, imagination=imagination, evaluation=replace(default.evaluation, bootstrap=200))


def episode(
    rewards: list[float], predicted: list[float], values: list[float], ended: bool = True, c: int = 1
) -> Episode:
    """Its latents say what the heads are to predict on arrival at each step but the first."""
    said = torch.tensor([[0.0, *predicted], values]).T
    terminals = torch.zeros(len(rewards), dtype=torch.bool)
    terminals[-1] = ended
    return Episode(
        "e", "played", said[:, None].half(), torch.zeros(len(rewards), 1, dtype=torch.uint8), torch.tensor(rewards),
        terminals, torch.ones(len(rewards) + 1, dtype=torch.bool), task=2,
    )  # fmt: skip


def found(*episodes: Episode, c: int = 1) -> dict[str, Any]:
    clock = LatentClock(c, 1 if c == 1 else 1 + 2 * c)
    result = calibrate(World(clock), Agent(), episodes, config())  # type: ignore[arg-type]
    json.dumps(result, allow_nan=False)
    return result


def test_predicted_and_paid_an_episode_and_by_kind_of_step() -> None:
    result = found(
        episode([0, 1, 0, -0.25], [0.5, 1, 0.5, 0.0], [0] * 5), episode([0, 1, 1, 0], [0, 0.5, 1, 0.5], [0] * 5)
    )
    assert result["predicted"]["mean"] == 2.0 and result["paid"]["mean"] == pytest.approx(1.375)
    assert result["ratio"]["mean"] == pytest.approx(2 / 1.375) and result["ratio"]["low"] <= result["ratio"]["high"]
    kinds = {name: (k["predicted"]["mean"], k["paid"]["mean"], k["steps"]) for name, k in result["kinds"].items()}
    assert kinds == {
        "paid_steps": (1.25, 1.5, 3), "unpaid_steps": (0.75, 0.0, 4), "penalised_steps": (0.0, -0.125, 1)
    }  # fmt: skip
    assert result["episodes"] == 2 and result["steps"] == 8 and result["task"] == 2


def test_a_head_that_is_right_has_ratio_auc_and_correlation_of_one() -> None:
    rewards = [0.0, 1, 0, 1]
    result = found(episode(rewards, rewards, [0] * 5))
    assert result["ratio"] == {"mean": 1.0, "low": 1.0, "high": 1.0}
    assert result["auc"] == 1.0 and result["correlation"] == pytest.approx(1.0)
    assert "penalised_steps" not in result["kinds"]


def test_nothing_paid_has_no_ratio_and_stays_json() -> None:
    result = found(episode([0, 0], [1, 1], [0] * 3))
    assert result["ratio"] is None and result["auc"] is None and result["correlation"] is None
    one_of_many = [1.0] + [0.0] * 29
    bounds = ratio([1.0] * 30, one_of_many, config())
    assert bounds is not None and bounds["mean"] == pytest.approx(30) and bounds["high"] is None


def test_rewards_of_a_chunk_are_summed_as_the_head_learns_them() -> None:
    result = found(episode([1, 1, 1, 1, 1], [1.5, 1.5, 1.0], [0] * 4, c=2), c=2)
    assert result["paid"]["mean"] == 1.5 + 1.5 + 1 and result["ratio"]["mean"] == 1.0


def test_values_are_compared_with_discounted_returns_to_the_end() -> None:
    critic = found(episode([0, 0, 4], [0] * 3, [1, 2, 4, 9]))["critic"]
    assert critic["returns"]["mean"] == critic["value"]["mean"] == pytest.approx(7 / 3)
    assert critic["bias"]["mean"] == 0 and critic["correlation"] == pytest.approx(1) and critic["unseen"] == 0
    assert critic["states"] == 3, "the state after the end has no value"


def test_an_episode_that_was_cut_off_counts_the_rest_by_the_critic_and_leaves_its_last_steps_out() -> None:
    values = [float(GAMMA ** (8 - s)) * 16 for s in range(9)]
    judged = judge(World(), Agent(), episode([0.0] * 8, [0.0] * 8, values, ended=False), config())  # type: ignore[arg-type]
    assert len(judged.values) == 8 - HORIZON and not judged.returns.any()
    assert judged.with_rest == pytest.approx(judged.values) and judged.bias == pytest.approx(np.zeros(5))
    assert judged.unseen.tolist() == [GAMMA ** (8 - s) for s in range(5)]
    short = judge(World(), Agent(), episode([0.0] * 2, [0.0] * 2, [1, 1, 1], ended=False), config())  # type: ignore[arg-type]
    assert len(short.values) == 1, "half of a short episode stays"


def test_long_episodes_go_through_in_pieces_that_know_the_steps_before(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load_config("debug", ["heads.reward_reads=all", "tokenizer={frames_per_latent: 1, window: 1}"])
    torch.manual_seed(0)
    world, agent = WorldModel.build(settings, (5,)), RealAgent(settings, (5,)).eval()
    torch.nn.init.normal_(agent.reward.net.out.weight)
    long = replace(
        episode([0.0] * 20, [0.0] * 20, [0.0] * 21), latents=torch.randn(21, 16, 16).half(),
        actions=torch.randint(5, (20, 1)).to(torch.uint8), task=0,
    )  # fmt: skip
    whole = align(long, LatentClock(1, 1))
    whole = replace(whole, latents=whole.latents.float(), actions=whole.actions.long())
    with torch.no_grad():
        features = agent.sequence_features(world, whole, torch.zeros(1, 0))
        expected = agent.recorded_rewards(features, whole)[0, 1:]
    for piece in (512, 6):
        monkeypatch.setattr(module, "PIECE", piece)
        judged = judge(world, agent, long, config())
        assert judged.predicted == pytest.approx(expected.double().numpy(), abs=1e-5) and judged.predicted.std() > 0.01


def test_auc_counts_ties_half() -> None:
    rng = np.random.default_rng(0)
    high, low = rng.integers(0, 5, 30) + 1.0, rng.integers(0, 5, 40) * 1.0
    pairs = high[:, None] - low[None]
    assert auc(high, low) == pytest.approx(((pairs > 0) + 0.5 * (pairs == 0)).mean())
    assert auc(high, np.zeros(0)) is None


def test_imagined_reward_is_correlated_step_by_step() -> None:
    rng = torch.Generator().manual_seed(0)
    rewards = (torch.rand(6, 9, generator=rng) < 0.3).float()
    latents = torch.stack([rewards, rewards], -1)[:, :, None]
    whole = align(episode([0.0] * 8, [0.0] * 8, [0.0] * 9), LatentClock(1, 1)).take(torch.zeros(6, dtype=torch.int64))
    batch = replace(whole, latents=latents, rewards=2 * rewards)
    other = torch.rand(latents.shape, generator=rng)

    def correlations(imagined: Tensor) -> dict[str, Any]:
        settings = EvaluationConfig(context=3, bootstrap=100, seed=0)
        return reward_correlation(World(), Agent(), batch, imagined, settings)  # type: ignore[arg-type]

    same, apart = correlations(latents), correlations(other)
    assert same["imagined_against_real"]["mean"] == pytest.approx(1) == same["imagined_against_recorded"]["mean"]
    assert same["steps"] == 36 and same["crops"] == 6 and same["recorded_mean"] == 2 * same["real_mean"]
    assert abs(apart["imagined_against_real"]["mean"]) < 0.4 < 0.99 < apart["real_against_recorded"]["mean"]
    assert correlations(torch.zeros_like(latents))["imagined_against_real"] is None
