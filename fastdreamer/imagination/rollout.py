"""Imagined rollouts: the policy acts in the world model, the reward head scores what it arrives in.

Source: Dreamer 4 (arXiv:2509.24527), section 3.3 and the plan's phase 3. Nothing here has a gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fastdreamer.dynamics.sampler import commit, sample_next
from fastdreamer.dynamics.world_model import WorldModel
from fastdreamer.heads.agent import Agent
from fastdreamer.latents.batch import Batch
from fastdreamer.shapes import CHANNELS, TOKENS


@dataclass(frozen=True)
class Rollout:
    """States 0 .. H (0 is real), the chunks taken at 0 .. H-1, and what arrives with states 1 .. H."""

    latents: Float[Tensor, "b s n z"]  # s = H + 1, normalised
    features: Float[Tensor, "b s f"]
    actions: Int[Tensor, "b h c k"]
    rewards: Float[Tensor, "b h"]
    continues: Float[Tensor, "b h"]


@dataclass(frozen=True)
class Noise:
    """All randomness of a rollout of `b` dreams from `x` real steps."""

    normal: Float[Tensor, "m b n z"]  # m = x + 2 h: each real step's; then where a step starts, and its commit's
    uniform: Float[Tensor, "h b c a"]

    def rows(self, first: int, last: int) -> Noise:
        """The noise of the dreams first .. last-1."""
        return Noise(self.normal[:, first:last], self.uniform[:, first:last])


def draw_noise(world: WorldModel, count: int, context: int, horizon: int, generator: torch.Generator) -> Noise:
    """Noise for `count` dreams, on the generator's device."""
    normal = torch.empty(context + 2 * horizon, count, TOKENS, CHANNELS, device=generator.device)
    choices = (horizon, count, world.clock.frames_per_latent, sum(world.sizes))
    uniform = torch.empty(choices, device=generator.device)
    return Noise(normal.normal_(generator=generator), uniform.uniform_(generator=generator))


@torch.no_grad()
def imagine(
    world: WorldModel,
    agent: Agent,
    batch: Batch,
    horizon: int,
    generator: torch.Generator,
    greedy: bool = False,
    first: Int[Tensor, "b c k"] | None = None,
    drawn: Noise | None = None,
) -> Rollout:
    """Rolls `horizon` latent steps forward from the last step of each real crop in `batch`.

    Args:
        world: frozen world model.
        agent: policy that acts; reward and continuation heads that score.
        batch: crops whose steps are the real context (`start_context` of them).
        horizon: H in latent steps.
        generator: the source of all noise and action samples.
        greedy: take the policy's mode.
        first: the chunk that is taken at state 0, whatever the policy would do.
        drawn: all noise, instead of the generator's.
    """
    real = world.normalise(batch.latents, batch.positions)
    count, context, device = len(real), real.shape[1], real.device
    tokens = agent.embed_tokens(batch.task)
    cache = world.new_cache(count, agent.token_count)
    drawn = drawn or draw_noise(world, count, context, horizon, generator)
    noise, uniform = drawn.normal.to(device), drawn.uniform.to(device)
    action = world.embed_actions(batch.actions, batch.action_valid, batch.labelled)
    for t in range(context):
        at = slice(t, t + 1)
        read = commit(world, cache, real[:, at], action[:, at], noise[t][:, None], tokens)
    known = torch.ones(count, 1, world.clock.frames_per_latent, dtype=torch.bool, device=device)
    latents = [real[:, -1]]
    traces = agent.traces(batch)
    trace = None if traces is None else traces[:, -1]
    features = [agent.features(real[:, -1], read, batch.task, trace)]
    actions = []
    for k in range(horizon):
        chunk = agent.policy.choose(agent.policy(features[-1]), None if greedy else uniform[k])
        chunk = first if first is not None and k == 0 else chunk
        token = world.embed_actions(chunk[:, None], known, known[:, 0, 0])[:, 0]
        state = sample_next(world, cache, token, noise[context + 2 * k])
        after = noise[context + 2 * k + 1]
        read = commit(world, cache, state[:, None], token[:, None], after[:, None], tokens)
        actions.append(chunk)
        latents.append(state)
        if agent.history is not None and trace is not None:
            trace = agent.history.after(trace, chunk, known[:, 0])
        features.append(agent.features(state, read, batch.task, trace))
    sequence = torch.stack(features, 1)
    taken = torch.stack(actions, 1)
    return Rollout(
        latents=torch.stack(latents, 1),
        features=sequence,
        actions=taken,
        rewards=agent.imagined_rewards(sequence, taken),
        continues=agent.continues(sequence)[:, 1:],
    )


def joined(rollouts: Sequence[Rollout]) -> Rollout:
    """Rollouts of several starts as one."""
    if len(rollouts) == 1:
        return rollouts[0]
    return Rollout(**{f.name: torch.cat([getattr(rollout, f.name) for rollout in rollouts]) for f in fields(Rollout)})
