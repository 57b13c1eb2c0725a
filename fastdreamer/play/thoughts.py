"""What an agent thinks of a state: what it would do, what it expects to be paid, and whether the episode goes on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from torch import Tensor

from fastdreamer.device import Backend
from fastdreamer.dynamics.sampler import as_context
from fastdreamer.dynamics.world_model import WorldModel
from fastdreamer.heads.agent import Agent

DIGITS = 6
"""Decimals of what is told to a page."""


@dataclass(frozen=True)
class Mind:
    """One agent at one state.

    Attributes:
        features: what its heads read.
        logits: what the policy says of the next chunk.
        said: probabilities of each component's labels at the chunk's first frame, the expected reward of what led
            here (None where what led here is not known, or the head never learned), value and continuation.
    """

    features: Float[Tensor, " f"]
    logits: Float[Tensor, "c a"]
    said: dict[str, Any]


@torch.no_grad()
def think(
    agent: Agent,
    backend: Backend,
    states: Mapping[str, Float[Tensor, "n z"]],
    reads: Mapping[str, Float[Tensor, "a d"]],
    before: Mapping[str, Mind],
    trace: Float[Tensor, "1 h"] | None,
    chunk: Int[ndarray, "c k"] | None,
    task: int,
) -> dict[str, Mind]:
    """One agent's mind at several states at once, in one pass.

    Args:
        agent: the one that thinks.
        backend: the models' device and precision.
        states: normalised latents by name, on any device.
        reads: what agent tokens read there, where there are any.
        before: its mind at the step before, by the same names; a name may be missing.
        trace: what was done (`heads.history`).
        chunk: the actions that led here; None at a start.
        task: number of the TASK token.
    """
    names, device = list(states), backend.device
    latents = torch.stack([states[name].to(device) for name in names])
    numbers = torch.full((len(names),), task, dtype=torch.int64, device=device)
    read = torch.stack([reads[name].to(device) for name in names])[:, None] if agent.agent_tokens else None
    traces = None if trace is None else trace.to(device).expand(len(names), -1)
    with backend.autocast():
        features = agent.features(latents, read, numbers, traces).float()
        logits = agent.policy(features)
        values, continues = agent.returns_decoded(features), agent.continues(features[:, None])[:, 0]
        rewards = _rewards(agent, names, features, before, chunk)
    parts = agent.policy.log_softmax(logits[:, 0])
    chances = [[_numbers(row) for row in part.exp().cpu()] for part in parts]
    return {
        name: Mind(
            features[i].cpu(),
            logits[i].float().cpu(),
            {
                "probabilities": [component[i] for component in chances],
                "reward": rewards.get(name),
                "value": _number(values[i]),
                "continue": _number(continues[i]),
            },
        )
        for i, name in enumerate(names)
    }


def _rewards(
    agent: Agent,
    names: list[str],
    features: Float[Tensor, "m f"],
    before: Mapping[str, Mind],
    chunk: Int[ndarray, "c k"] | None,
) -> dict[str, float]:
    """The expected reward of what led into each state, where it can be told."""
    known = [name for name in names if name in before or not agent.reward_needs_past]
    if chunk is None or not known or not agent.reward.is_trained:
        return {}
    now = torch.stack([features[names.index(name)] for name in known])
    past = torch.stack([before[name].features if name in before else torch.zeros(now.shape[1]) for name in known])
    pair = torch.stack([past.to(now.device), now], 1)
    led = torch.from_numpy(np.ascontiguousarray(chunk, np.int64)).to(now.device).expand(len(known), 2, -1, -1)
    is_known = torch.ones(led.shape[:3], dtype=torch.bool, device=now.device)
    decoded = agent.reward.decode(agent.reward_logits(pair, led, is_known))[:, 1]
    return {name: _number(value) for name, value in zip(known, decoded, strict=True)}


@torch.no_grad()
def read_real(
    world: WorldModel,
    agent: Agent,
    backend: Backend,
    latents: Float[Tensor, "l n z"],
    actions: Int[Tensor, "l c k"],
    known: Tensor,
    noise: Float[Tensor, "l n z"],
    task: int,
) -> Float[Tensor, "a d"]:
    """What the agent tokens read at the newest of some real steps, in one pass over all of them.

    An agent that acts keeps a cache instead, through whose layers it sees a little of what lies further back.
    """
    device = backend.device
    number = torch.full((1,), task, dtype=torch.int64, device=device)
    with backend.autocast():
        signal, noisy = as_context(world, latents.to(device)[None], noise.to(device)[None])
        token = world.embed_actions(actions.to(device)[None], known.to(device)[None], torch.ones_like(number).bool())
        _, read = world.read(noisy, signal, torch.zeros_like(signal), token, agent.embed_tokens(number))
    assert read is not None
    return read[0, -1].cpu()


def _numbers(values: Tensor) -> list[float]:
    return [round(value, DIGITS) for value in values.tolist()]


def _number(value: Tensor) -> float:
    return round(float(value), DIGITS)
