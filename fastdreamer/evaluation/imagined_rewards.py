"""Does a dream pay what play pays? The reward head on imagined states against the same head on the real ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy import ndarray
from torch import Tensor

from fastdreamer.config import Config, EvaluationConfig
from fastdreamer.dynamics.world_model import WorldModel
from fastdreamer.evaluation.calibration import correlation, features_of, predicted_rewards
from fastdreamer.evaluation.open_loop import SEQUENCES, Imagine
from fastdreamer.heads.agent import Agent
from fastdreamer.latents.batch import Batch
from fastdreamer.run.directory import RunDirectory
from fastdreamer.training.models import agent_from


@torch.no_grad()
def imagined_rewards(
    config: Config, run: RunDirectory, trained: Sequence[int], world: WorldModel, batch: Batch, imagine: Imagine
) -> dict[str, Any]:
    """The entry `reward_correlation` of world_model.json; empty without a trained reward head."""
    settings, phase = config.evaluation, next((phase for phase in trained if phase > 1), None)
    if phase is None:
        return {}
    agent = agent_from(run.load(phase, config), config, batch.latents.device).eval()
    if not agent.reward.is_trained:
        return {}
    rows = torch.arange(len(batch.latents), device=batch.latents.device)
    generator = torch.Generator().manual_seed(settings.seed)
    imagined = torch.cat([imagine(batch.take(some), generator, None) for some in rows.split(SEQUENCES)])
    found = reward_correlation(world, agent, batch, imagined, settings)
    return {"reward_correlation": found}


@torch.no_grad()
def reward_correlation(
    world: WorldModel, agent: Agent, batch: Batch, imagined: Float[Tensor, "b l n z"], settings: EvaluationConfig
) -> dict[str, Any]:
    """Step-by-step correlations over the imagined steps of crops of held-out play; contents of `reward_correlation`.

    `imagined` is one sample of each crop, normalised, under the crop's own actions; its first `context` steps are real.
    """
    context = settings.context
    imagined_batch = replace(batch, latents=world.denormalise(imagined, batch.positions))
    rewards = {
        "imagined": _predicted(world, agent, imagined_batch, context),
        "real": _predicted(world, agent, batch, context),
        "recorded": batch.rewards[:, context:].double().cpu().numpy(),
    }
    known = batch.reward_valid[:, context:].cpu().numpy()
    pairs = (("imagined", "real"), ("imagined", "recorded"), ("real", "recorded"))
    found = {
        f"{one}_against_{other}": _interval(rewards[one], rewards[other], known, settings.bootstrap, settings.seed)
        for one, other in pairs
    }
    means = {f"{name}_mean": float(values[known].mean()) if known.any() else 0.0 for name, values in rewards.items()}
    return found | means | {"crops": len(known), "steps": int(known.sum())}


def _predicted(world: WorldModel, agent: Agent, batch: Batch, context: int) -> Float[ndarray, "b s"]:
    parts = []
    for rows in torch.arange(len(batch.latents), device=batch.latents.device).split(SEQUENCES):
        some = batch.take(rows)
        parts.append(predicted_rewards(agent, features_of(world, agent, some), some)[:, context:])
    return torch.cat(parts).double().cpu().numpy()


def _interval(
    one: Float[ndarray, "b s"], other: Float[ndarray, "b s"], known: Bool[ndarray, "b s"], resamples: int, seed: int
) -> dict[str, float] | None:
    """The correlation over all known steps with its bootstrap interval over crops; None where one is all alike."""
    whole = correlation(one[known], other[known])
    if whole is None:
        return None
    rng = np.random.default_rng(seed)
    draws = []
    for _ in range(resamples):
        rows = rng.integers(0, len(one), len(one))
        drawn = correlation(one[rows][known[rows]], other[rows][known[rows]])
        draws += [] if drawn is None else [drawn]
    low, high = np.quantile(draws, (0.025, 0.975)) if draws else (whole, whole)
    return {"mean": whole, "low": float(low), "high": float(high)}
