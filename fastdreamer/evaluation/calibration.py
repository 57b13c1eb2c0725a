"""Is what the heads say true where the policy goes? Predicted against paid reward, and values against returns.

Heads are trained on recordings; nothing holds them to anything where a policy goes on its own. So they are read on REAL
play, on the same inputs as in training, and compared with what the environment paid. Rewards of a step are the
discounted sum over its chunk, as the reward head learns them (`latents.batch.align`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy import ndarray
from torch import Tensor

from fastdreamer.config import Config
from fastdreamer.dynamics.world_model import WorldModel
from fastdreamer.evaluation.bootstrap import mean_interval, ratio_interval
from fastdreamer.evaluation.payments import Task
from fastdreamer.heads.agent import Agent
from fastdreamer.imagination.returns import lambda_returns
from fastdreamer.latents.batch import Batch, EpisodeArrays, align, crop
from fastdreamer.latents.relabel import relabelled
from fastdreamer.latents.store import Episode, LatentStore
from fastdreamer.run.directory import RunDirectory
from fastdreamer.training.imagination_phase import NO_REWARD
from fastdreamer.training.models import load_agent

PIECE = 512  # latent steps that go through the heads at once
HUGE = 1e6  # a ratio beyond says that hardly anything was paid


def features_of(world: WorldModel, agent: Agent, batch: Batch) -> Float[Tensor, "b l f"]:
    """What the heads read at each step of real crops, as in training; agent tokens see the same noise every time."""
    shape = batch.latents.shape if agent.agent_tokens else (len(batch.latents), 0)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    return agent.sequence_features(world, batch, noise.to(batch.latents.device))


def predicted_rewards(agent: Agent, features: Float[Tensor, "b l f"], batch: Batch) -> Float[Tensor, "b l"]:
    """The reward head's expectation at each step; `batch` holds what led into the steps.

    What the head reads of a step is chosen here for all of evaluation and diagnosis.
    """
    return agent.recorded_rewards(features, batch).float()


@dataclass(frozen=True)
class Judged:
    """An episode's steps: what the heads say of them, and what came.

    Attributes:
        predicted, paid: reward at every step that a known reward came with.
        values: the critic's values of the states that are compared: all but the last of an episode that was cut off.
        returns: discounted, paid from there to the episode's end.
        with_rest: those returns, and the critic's own value of the state at which the episode was cut off.
        unseen: weight of what would have come after the cut; 0 where the episode ended.
    """

    predicted: Float[ndarray, " s"]
    paid: Float[ndarray, " s"]
    values: Float[ndarray, " v"]
    returns: Float[ndarray, " v"]
    with_rest: Float[ndarray, " v"]
    unseen: Float[ndarray, " v"]

    @property
    def bias(self) -> Float[ndarray, " v"]:
        """What the critic says too much."""
        return self.values - self.with_rest


@torch.no_grad()
def judge(world: WorldModel, agent: Agent, episode: EpisodeArrays, config: Config) -> Judged:
    """The heads on an episode's real states; the last `imagination.horizon` of one that was cut off are left out."""
    settings, device = config.imagination, world.mean.device
    whole = align(episode, world.clock, settings.gamma)
    said = [_said(world, agent, piece.to(device), skipped) for piece, skipped in _pieces(whole, world.config.context)]
    predicted, values = (torch.cat(parts, 1).cpu() for parts in zip(*said, strict=True))
    known = whole.reward_valid[0]
    rewards, continues = whole.rewards[:, 1:], whole.continues[:, 1:]
    assert rewards.shape[1], "an episode of one frame has nothing to judge"
    gamma, nothing = settings.gamma**world.clock.frames_per_latent, torch.zeros_like(rewards)
    last = torch.cat([nothing[:, 1:], nothing[:, :1] + 1], 1)
    returns = lambda_returns(rewards, continues, nothing, gamma, 1.0)
    unseen = lambda_returns(nothing, continues, last, gamma, 1.0)
    steps = rewards.shape[1]
    kept = max(steps - settings.horizon, steps - steps // 2) if continues[0, -1] else steps
    columns = (values[:, :-1], returns, returns + unseen * values[:, -1:], unseen)
    return Judged(
        predicted[0][known].double().numpy(),
        whole.rewards[0][known].double().numpy(),
        *(column[0, :kept].double().numpy() for column in columns),
    )


def _pieces(whole: Batch, overlap: int) -> Iterator[tuple[Batch, int]]:
    """An aligned episode in pieces, each with how many of its first steps are the piece's before."""
    steps = whole.latents.shape[1]
    for start in range(0, steps, PIECE):
        first = max(0, start - overlap)
        yield crop(whole, first, min(start + PIECE, steps) - first), start - first


def _said(world: WorldModel, agent: Agent, batch: Batch, skipped: int) -> tuple[Tensor, Tensor]:
    features = features_of(world, agent, batch)
    rewards, values = predicted_rewards(agent, features, batch), agent.returns_decoded(features).float()
    return rewards[:, skipped:], values[:, skipped:]


def calibrate(world: WorldModel, agent: Agent, episodes: Sequence[EpisodeArrays], config: Config) -> dict[str, Any]:
    """One policy's entry of `reward_calibration` in evaluation.json; intervals over episodes, each a world of its own.

    The models are those of the policy; of its real play of one task there is at least one episode.
    """
    world, agent = world.eval(), agent.eval()
    judged = [judge(world, agent, episode, config) for episode in episodes]
    predicted, paid = np.concatenate([j.predicted for j in judged]), np.concatenate([j.paid for j in judged])
    kinds = {
        "paid_steps": [j.paid > NO_REWARD for j in judged],
        "unpaid_steps": [np.abs(j.paid) <= NO_REWARD for j in judged],
        "penalised_steps": [j.paid < -NO_REWARD for j in judged],
    }
    every = [np.ones(len(j.paid), bool) for j in judged]
    result = _sums(judged, every, config) | {
        "ratio": ratio([j.predicted.sum() for j in judged], [j.paid.sum() for j in judged], config),
        "auc": auc(predicted[paid > NO_REWARD], predicted[paid <= NO_REWARD]),
        "correlation": correlation(predicted, paid),
        "episodes": len(judged),
        "task": int(episodes[0].task),
        "kinds": {name: _sums(judged, some, config) for name, some in kinds.items() if np.concatenate(some).any()},
    }
    if agent.value.is_trained:
        result["critic"] = _critic(judged, config)
    return result


def _sums(judged: Sequence[Judged], chosen: Sequence[Bool[ndarray, " s"]], config: Config) -> dict[str, Any]:
    """Predicted and paid an episode in the chosen steps of each, and how many steps these are."""

    def interval(sums: Sequence[float]) -> dict[str, float]:
        return mean_interval(np.array(sums), config.evaluation.bootstrap, config.evaluation.seed).to_dict()

    return {
        "predicted": interval([j.predicted[some].sum() for j, some in zip(judged, chosen, strict=True)]),
        "paid": interval([j.paid[some].sum() for j, some in zip(judged, chosen, strict=True)]),
        "steps": int(sum(some.sum() for some in chosen)),
    }


def _critic(judged: Sequence[Judged], config: Config) -> dict[str, Any]:
    """Values and returns a state, with intervals over episodes; bias, spread and correlation are to `with_rest`."""

    def mean(name: str) -> dict[str, float | None]:
        found = ratio([getattr(j, name).sum() for j in judged], [float(len(j.values)) for j in judged], config)
        assert found is not None, "there are states"
        return found

    values, rest = (np.concatenate([getattr(j, name) for j in judged]) for name in ("values", "with_rest"))
    return {
        "value": mean("values"),
        "returns": mean("returns"),
        "with_rest": mean("with_rest"),
        "bias": mean("bias"),
        "spread": float(rest.std()),
        "correlation": correlation(values, rest),
        "unseen": float(np.concatenate([j.unseen for j in judged]).mean()),
        "states": len(values),
        "left_out": config.imagination.horizon,
    }


def ratio(top: Sequence[float], bottom: Sequence[float], config: Config) -> dict[str, float | None] | None:
    """Ratio of means with its interval over episodes; None where nothing is below the line, or a bound is no number."""
    if not sum(bottom) > 0:
        return None
    with np.errstate(over="ignore", invalid="ignore"):
        found = ratio_interval(np.array(top), np.array(bottom), config.evaluation.bootstrap, config.evaluation.seed)
    return {name: value if abs(value) < HUGE else None for name, value in found.to_dict().items()}


def auc(higher: Float[ndarray, " p"], lower: Float[ndarray, " q"]) -> float | None:
    """Chance that one of `higher` is above one of `lower`, ties half; None where one of the two is empty."""
    if not len(higher) or not len(lower):
        return None
    ordered = np.sort(lower)
    below = np.searchsorted(ordered, higher, "left") + np.searchsorted(ordered, higher, "right")
    return float(below.mean() / 2 / len(lower))


def correlation(one: Float[ndarray, " s"], other: Float[ndarray, " s"]) -> float | None:
    """Pearson's correlation; None where one of them is all alike."""
    if len(one) < 2 or min(one.std(), other.std()) < 1e-9:
        return None
    return float(np.corrcoef(one, other)[0, 1])


def recorded_play(store: LatentStore, config: Config, task: Task) -> list[Episode]:
    """Held-out recordings with the task's rewards; as many as are played at most."""
    (episodes,) = relabelled(store, store.split("held_out"), [task.name])
    if len(config.tasks.names) > 1:
        episodes = [episode.changed(task=task.number) for episode in episodes]
    known = [e for e in episodes if e.labelled and e.rewarded and e.length > 1]
    alike = [e for e in known if not config.task_count or e.task == task.number]
    return alike[: config.evaluation.episodes]


def calibrate_recordings(
    config: Config, run: RunDirectory, trained: Sequence[int], store: LatentStore, task: Task, device: torch.device
) -> dict[str, Any]:
    """The entry `recordings` of a task's reward calibration: phase 2's heads on held-out play; empty without either."""
    phase = next((phase for phase in trained if phase > 1), None)
    if phase is None:
        return {}
    actor = load_agent(run, config, phase, device)
    played = recorded_play(store, config, task)
    if not played or not actor.agent.reward.is_trained:
        return {}
    return {"recordings": calibrate(actor.world, actor.agent, played, config) | {"step": run.step(phase)}}
