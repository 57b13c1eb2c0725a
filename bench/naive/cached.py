"""Imagination with a cache that grows by concatenation: what most public implementations with a cache do.

Keys and values of the time layers are kept; every pass joins them with the new step's, and a finished step has a pass
of its own that commits it. The mathematics are `bench.naive.rollout`'s, so both give the same dreams.
Source: Dreamer 4 (arXiv:2509.24527), sections 3.2 and 3.3.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from bench.naive.model import FIRST_SPATIAL, Attention, Block, NaiveWorldModel
from bench.naive.rollout import draws, scored
from fastdreamer.heads.agent import Agent
from fastdreamer.imagination.rollout import Rollout
from fastdreamer.latents.batch import Batch
from fastdreamer.shapes import TOKENS


class Past:
    """Keys and values of every time layer, (b, s, heads, l, e), and how many steps were committed in all."""

    def __init__(self, context: int) -> None:
        self.context, self.steps = context, 0
        self.layers: dict[int, tuple[Tensor, Tensor]] = {}

    def read(
        self, layer: int, attention: Attention, x: Float[Tensor, "b s d"], commits: bool
    ) -> Float[Tensor, "b s d"]:
        """What one new step's tokens read of their own past and of themselves."""
        batch, tokens = x.shape[:2]
        query, key, value = attention.project(x.flatten(0, 1).unsqueeze(1), self.steps)
        key, value = (new.unflatten(0, (batch, tokens)) for new in (key, value))
        if layer in self.layers:
            key, value = (
                torch.cat([old[:, :tokens], new], -2)[..., -self.context :, :]
                for old, new in zip(self.layers[layer], (key, value), strict=True)
            )
        if commits:
            self.layers[layer] = key, value
        return attention.read(query, key.flatten(0, 1), value.flatten(0, 1), None).view(batch, tokens, -1)


def predict(
    model: NaiveWorldModel,
    past: Past,
    noisy: Float[Tensor, "b n z"],
    signal: int,
    step_size: int,
    action: Float[Tensor, "b d"],
    agents: Float[Tensor, "b a d"] | None = None,
    commits: bool = False,
) -> tuple[Float[Tensor, "b n z"], Float[Tensor, "b a d"]]:
    """(clean latents of the step behind the past, what the agent tokens read); `commits` makes the step part of it."""
    levels = torch.full((len(noisy), 1), signal, device=noisy.device)
    x = model.tokens(noisy[:, None], levels, torch.full_like(levels, step_size), action[:, None])[:, 0]
    world = x.shape[1]
    if agents is not None:
        x = torch.cat([x, agents], 1)
    token = torch.arange(x.shape[1], device=x.device)
    mask = (token[None, :] < world) | (token[:, None] >= world)
    for layer, block in enumerate(model.transformer.blocks):
        assert isinstance(block, Block)
        rows, attention = block.attention_norm(x), block.attention
        x = x + (past.read(layer, attention, rows, commits) if block.is_time else attention(rows, mask))
        x = x + block.feed_forward(block.feed_forward_norm(x))
    x = model.transformer.norm(x)
    past.steps += commits
    return model.readout(x[:, FIRST_SPATIAL : FIRST_SPATIAL + TOKENS]).float(), x[:, world:].float()


@torch.no_grad()
def imagine(
    model: NaiveWorldModel, agent: Agent, batch: Batch, horizon: int, generator: torch.Generator, greedy: bool = False
) -> Rollout:
    """Imagine as `fastdreamer.imagination.rollout.imagine` does, with the same noise in the same order."""
    real = model.normalise(batch.latents, batch.positions)
    count, context, device = len(real), real.shape[1], real.device
    steps, finest = model.forcing.sample_steps, model.forcing.finest_steps
    level, stride = min(round(model.forcing.context_signal * finest), finest - 1), finest // steps
    tau, d = level / finest, 1 / steps
    noise, uniform = draws(model, agent, real, horizon, generator)
    tokens = agent.embed_tokens(batch.task)
    action = model.embed_actions(batch.actions, batch.action_valid, batch.labelled)
    past = Past(model.transformer.context)

    def commit(state: Tensor, token: Tensor, drawn: Tensor) -> Tensor:
        """Makes a step part of the past; returns what the heads see of it."""
        read = predict(model, past, (1 - tau) * drawn + tau * state, level, 0, token, tokens, commits=True)[1]
        return agent.features(state, None if tokens is None else read[:, None], batch.task)

    for t in range(context):
        feature = commit(real[:, t], action[:, t], noise[t])
    latents, features, actions = [real[:, -1]], [feature], []
    known = torch.ones(count, 1, model.clock.frames_per_latent, dtype=torch.bool, device=device)
    for k in range(horizon):
        chunk = agent.policy.choose(agent.policy(features[-1]), None if greedy else uniform[k])
        token = model.embed_actions(chunk[:, None], known, known[:, 0, 0])[:, 0]
        z = noise[context + 2 * k]
        for i in range(steps):
            clean = predict(model, past, z, i * stride, stride.bit_length() - 1, token)[0]
            z = z + d * (clean - z) / (1 - i * d)
        actions.append(chunk)
        latents.append(z)
        features.append(commit(z, token, noise[context + 2 * k + 1]))
    return scored(agent, latents, features, actions)
