"""Imagination by recomputing the whole sequence at every pass, or, as others do, with a cache that grows by joining.

The context's steps are noised to the context's signal level, as they are when ours commits them to its cache.
Source: Dreamer 4 (arXiv:2509.24527), sections 3.2 and 3.3.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from bench.naive.model import FIRST_SPATIAL, Attention, Block, NaiveWorldModel
from bench.naive.objectives import two_hot_decode
from fastdreamer.heads.agent import Agent
from fastdreamer.imagination.rollout import Rollout
from fastdreamer.latents.batch import Batch
from fastdreamer.shapes import TOKENS


def sample_next(
    model: NaiveWorldModel,
    past: Float[Tensor, "b l n z"],
    action: Float[Tensor, "b s d"],
    noise: Float[Tensor, "b n z"],
    level: int,
) -> Float[Tensor, "b n z"]:
    """The next step after `past`, which is noised to `level`: z <- z + d (f - z) / (1 - tau), K times, from `noise`.

    The actions are those that led into the past's steps and into the next, so one more than these.
    """
    steps, finest = model.forcing.sample_steps, model.forcing.finest_steps
    d = 1 / steps
    signal = torch.full(action.shape[:2], level, device=noise.device)
    step_size = torch.zeros_like(signal)
    step_size[:, -1] = (finest // steps).bit_length() - 1
    z = noise
    for i in range(steps):
        signal[:, -1] = i * (finest // steps)
        clean = model(torch.cat([past, z[:, None]], 1), signal, step_size, action)[0][:, -1]
        z = z + d * (clean - z) / (1 - i * d)
    return z


def draws(
    model: NaiveWorldModel, agent: Agent, real: Float[Tensor, "b l n z"], horizon: int, generator: torch.Generator
) -> tuple[Float[Tensor, "m b n z"], Float[Tensor, "h b c a"]]:
    """All randomness of a rollout in our order: noise of the real steps, two an imagined step; then the choices."""
    (count, context), home = real.shape[:2], generator.device
    choices = horizon, count, model.clock.frames_per_latent, sum(agent.policy.sizes)
    noise = torch.randn(context + 2 * horizon, *real[:, 0].shape, generator=generator, device=home)
    return noise.to(real.device), torch.rand(choices, generator=generator, device=home).to(real.device)


class Recomputed:
    """Steps that were committed, over which every pass goes once more; `tokens` are the agent's, if any."""

    def __init__(self, model: NaiveWorldModel, level: int, tokens: Float[Tensor, "b a d"] | None) -> None:
        self.model, self.level, self.tokens = model, level, tokens
        self.states: list[Tensor] = []
        self.actions: list[Tensor] = []

    def commit(self, state: Float[Tensor, "b n z"], action: Float[Tensor, "b d"]) -> None:
        """Take in a step, noised to the level, and the action that led into it."""
        self.states.append(state)
        self.actions.append(action)

    def sample(self, action: Float[Tensor, "b d"], noise: Float[Tensor, "b n z"]) -> Float[Tensor, "b n z"]:
        """The next step, from `noise`."""
        past, actions = torch.stack(self.states, 1), torch.stack([*self.actions, action], 1)
        return sample_next(self.model, past, actions, noise, self.level)

    def read(self) -> Float[Tensor, "b l a d"] | None:
        """What the agent tokens read of the steps; one more pass."""
        if self.tokens is None:
            return None
        past, actions = torch.stack(self.states, 1), torch.stack(self.actions, 1)
        signal = torch.full(past.shape[:2], self.level, device=past.device)
        found: Tensor = self.model(past, signal, torch.zeros_like(signal), actions, self.tokens)[1]
        return found


@torch.no_grad()
def imagine(
    model: NaiveWorldModel,
    agent: Agent,
    batch: Batch,
    horizon: int,
    generator: torch.Generator,
    way: Callable[..., Any] = Recomputed,
) -> Rollout:
    """Imagine as `fastdreamer.imagination.rollout.imagine` does, with the same noise in the same order."""
    real, finest = model.normalise(batch.latents, batch.positions), model.forcing.finest_steps
    count, context = real.shape[:2]
    level = min(round(model.forcing.context_signal * finest), finest - 1)
    noise, uniform = draws(model, agent, real, horizon, generator)
    action = model.embed_actions(batch.actions, batch.action_valid, batch.labelled)
    known = torch.ones(count, 1, model.clock.frames_per_latent, dtype=torch.bool, device=real.device)
    past = way(model, level, agent.embed_tokens(batch.task))

    def commit(state: Tensor, token: Tensor, drawn: Tensor) -> None:
        past.commit((1 - level / finest) * drawn + level / finest * state, token)

    for t in range(context):
        commit(real[:, t], action[:, t], noise[t])
    latents, features, actions = [real[:, -1]], [agent.features(real[:, -1], past.read(), batch.task)], []
    for k in range(horizon):
        actions.append(agent.policy.choose(agent.policy(features[-1]), uniform[k]))
        token = model.embed_actions(actions[-1][:, None], known, known[:, 0, 0])[:, 0]
        latents.append(past.sample(token, noise[context + 2 * k]))
        commit(latents[-1], token, noise[context + 2 * k + 1])
        features.append(agent.features(latents[-1], past.read(), batch.task))
    return scored(agent, latents, features, actions)


def scored(agent: Agent, latents: list[Tensor], features: list[Tensor], actions: list[Tensor]) -> Rollout:
    """States 0 .. H and the chunks between them as a rollout, with what the heads say of them."""
    sequence = torch.stack(features, 1)
    led = torch.stack([torch.zeros_like(actions[0]), *actions], 1)
    known = torch.ones(led.shape[:3], dtype=torch.bool, device=led.device)
    rewards = two_hot_decode(agent.reward_logits(sequence, led, known), agent.reward.centres)
    return Rollout(
        latents=torch.stack(latents, 1),
        features=sequence,
        actions=torch.stack(actions, 1),
        rewards=rewards[:, 1:],
        continues=agent.continues(sequence)[:, 1:],
    )


class Cached:
    """Keys and values of every time layer, (b, s, heads, l, e), and how many steps were committed in all.

    As `bench.naive.rollout.Recomputed`, whose arguments it takes.
    """

    def __init__(self, model: NaiveWorldModel, level: int, tokens: Float[Tensor, "b a d"] | None) -> None:
        self.model, self.level, self.tokens, self.steps = model, level, tokens, 0
        self.layers: dict[int, tuple[Tensor, Tensor]] = {}
        self.seen: Tensor | None = None

    def commit(self, state: Float[Tensor, "b n z"], action: Float[Tensor, "b d"]) -> None:
        """Make a step, noised to the level, part of the past."""
        _, read = self.predict(state, self.level, 0, action, self.tokens, commits=True)
        self.seen = None if self.tokens is None else read[:, None]

    def sample(self, action: Float[Tensor, "b d"], noise: Float[Tensor, "b n z"]) -> Float[Tensor, "b n z"]:
        """The next step, from `noise`."""
        steps, z = self.model.forcing.sample_steps, noise
        stride = self.model.forcing.finest_steps // steps
        for i in range(steps):
            clean = self.predict(z, i * stride, stride.bit_length() - 1, action)[0]
            z = z + (clean - z) / steps / (1 - i / steps)
        return z

    def read(self) -> Float[Tensor, "b 1 a d"] | None:
        """What the agent tokens read of the newest step."""
        return self.seen

    def predict(
        self,
        noisy: Float[Tensor, "b n z"],
        signal: int,
        step_size: int,
        action: Float[Tensor, "b d"],
        agents: Float[Tensor, "b a d"] | None = None,
        commits: bool = False,
    ) -> tuple[Float[Tensor, "b n z"], Float[Tensor, "b a d"]]:
        """(clean latents of the step behind the past, what agent tokens read); `commits` makes it part of the past."""
        model, levels = self.model, torch.full((len(noisy), 1), signal, device=noisy.device)
        x = model.tokens(noisy[:, None], levels, torch.full_like(levels, step_size), action[:, None])[:, 0]
        world = x.shape[1]
        if agents is not None:
            x = torch.cat([x, agents], 1)
        token = torch.arange(x.shape[1], device=x.device)
        mask = (token[None, :] < world) | (token[:, None] >= world)
        for layer, block in enumerate(model.transformer.blocks):
            assert isinstance(block, Block)
            rows, attention = block.attention_norm(x), block.attention
            x = x + (self._attend(layer, attention, rows, commits) if block.is_time else attention(rows, mask))
            x = x + block.feed_forward(block.feed_forward_norm(x))
        x = model.transformer.norm(x)
        self.steps += commits
        return model.readout(x[:, FIRST_SPATIAL : FIRST_SPATIAL + TOKENS]).float(), x[:, world:].float()

    def _attend(
        self, layer: int, attention: Attention, x: Float[Tensor, "b s d"], commits: bool
    ) -> Float[Tensor, "b s d"]:
        """What one new step's tokens read of their own past and of themselves."""
        batch, tokens = x.shape[:2]
        query, key, value = attention.project(x.flatten(0, 1).unsqueeze(1), self.steps)
        key, value = (new.unflatten(0, (batch, tokens)) for new in (key, value))
        if layer in self.layers:
            key, value = (
                torch.cat([old[:, :tokens], new], -2)[..., -self.model.transformer.context :, :]
                for old, new in zip(self.layers[layer], (key, value), strict=True)
            )
        if commits:
            self.layers[layer] = key, value
        return attention.read(query, key.flatten(0, 1), value.flatten(0, 1), None).view(batch, tokens, -1)
