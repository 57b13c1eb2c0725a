"""Imagined rollouts: the policy acts in the world model, the reward head scores what it arrives in.

Source: Dreamer 4 (arXiv:2509.24527), section 3.3 and the plan's phase 3. Nothing here has a gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fastdreamer.data.clips import Batch
from fastdreamer.dynamics.sampler import commit, sample_next
from fastdreamer.dynamics.world_model import WorldModel
from fastdreamer.heads.agent import Agent


@dataclass(frozen=True)
class Rollout:
    """States 0 .. H (0 is real), the chunks taken at 0 .. H-1, and what arrives with states 1 .. H."""

    latents: Float[Tensor, "b s n z"]  # s = H + 1, normalised
    features: Float[Tensor, "b s f"]
    actions: Int[Tensor, "b h c k"]
    rewards: Float[Tensor, "b h"]
    continues: Float[Tensor, "b h"]


@torch.no_grad()
def imagine(
    world: WorldModel, agent: Agent, batch: Batch, horizon: int, generator: torch.Generator, greedy: bool = False
) -> Rollout:
    """Rolls `horizon` latent steps forward from the last step of each real crop in `batch`.

    Args:
        world: frozen world model.
        agent: policy that acts; reward and continuation heads that score.
        batch: crops whose steps are the real context (`start_context` of them).
        horizon: H in latent steps.
        generator: of all noise and action samples.
        greedy: take the policy's mode.
    """
    real = world.normalise(batch.latents, batch.positions)
    count, context, device = len(real), real.shape[1], real.device
    tokens = agent.embed_tokens(batch.task)
    cache = world.new_cache(count, agent.token_count)
    home, choices = generator.device, (horizon, count, world.clock.frames_per_latent, sum(world.sizes))
    noise = torch.randn(context + 2 * horizon, *real[:, 0].shape, generator=generator, device=home).to(device)
    uniform = torch.rand(choices, generator=generator, device=home).to(device)
    action = world.embed_actions(batch.actions, batch.action_valid, batch.labelled)
    for t in range(context):
        at = slice(t, t + 1)
        read = commit(world, cache, real[:, at], action[:, at], noise[t][:, None], tokens)[:, 0]
    known = torch.ones(count, 1, world.clock.frames_per_latent, dtype=torch.bool, device=device)
    latents = [real[:, -1]]
    features = [agent.features(real[:, -1], read, batch.task)]
    actions = []
    for k in range(horizon):
        chunk = agent.policy.choose(agent.policy(features[-1]), None if greedy else uniform[k])
        token = world.embed_actions(chunk[:, None], known, known[:, 0, 0])[:, 0]
        state = sample_next(world, cache, token, noise[context + 2 * k], tokens)
        after = noise[context + 2 * k + 1]
        read = commit(world, cache, state[:, None], token[:, None], after[:, None], tokens)[:, 0]
        actions.append(chunk)
        latents.append(state)
        features.append(agent.features(state, read, batch.task))
    sequence = torch.stack(features, 1)
    rewards = agent.reward.decode(agent.reward(agent.reward_inputs(sequence)))
    return Rollout(
        latents=torch.stack(latents, 1),
        features=sequence,
        actions=torch.stack(actions, 1),
        rewards=rewards[:, 1:],
        continues=agent.continues(sequence)[:, 1:],
    )


def joined(rollouts: Sequence[Rollout]) -> Rollout:
    """Rollouts of several starts as one."""
    if len(rollouts) == 1:
        return rollouts[0]
    return Rollout(**{f.name: torch.cat([getattr(rollout, f.name) for rollout in rollouts]) for f in fields(Rollout)})
