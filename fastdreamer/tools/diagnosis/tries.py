"""Every first action from a moment, many times, in the real game and in imagination; the policy goes on from there.

Both sides see the same real steps and discount alike. The n-th try of every action has the same luck (the world's
chance, the policy's draws, the dream's noise), which leaves fewer tries' worth of noise in an action's advantage.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from torch import Tensor

from fastdreamer.device import Backend
from fastdreamer.envs.branching import BranchPool
from fastdreamer.evaluation.closed_loop import Encoder
from fastdreamer.heads.actor import Actor
from fastdreamer.imagination.returns import survival
from fastdreamer.imagination.rollout import Noise, draw_noise, imagine
from fastdreamer.latents.batch import Batch
from fastdreamer.tools.diagnosis.moments import Moment, Reach


@dataclass(frozen=True)
class Tried:
    """Rewards a latent step of every try of every action, from one moment or, stacked, from several.

    Attributes:
        real: 0 after an end.
        imagined: times the probability that the episode goes on until there.
        policy: how likely each action is as the policy's next; of a chunk, the mean over its places.
    """

    real: Float[ndarray, "*s a r h"]
    imagined: Float[ndarray, "*s a r h"]
    policy: Float[ndarray, "*s a"]


@dataclass(frozen=True)
class Trial:
    """What is the same for all moments.

    Attributes:
        pool: a world a branch: every action's tries one after another.
        encoder: an encoder for as many branches.
        actions: how many there are.
        tries: how often each action is tried.
        horizon: latent steps.
        gamma: a frame; within a chunk rewards are summed with it, as the reward head learns them.
        tell: is called with the latent steps played.
    """

    actor: Actor
    pool: BranchPool
    encoder: Encoder
    reach: Reach
    backend: Backend
    actions: int
    tries: int
    horizon: int
    gamma: float
    tell: Callable[[int], None]

    @torch.no_grad()
    def run(self, moment: Moment, latents: Float[Tensor, "l n z"], positions: Int[Tensor, " l"], seed: int) -> Tried:
        """Play all tries from a moment, before which lie raw latents of real steps."""
        world, agent, device = self.actor.world, self.actor.agent, self.backend.device
        generator = torch.Generator().manual_seed(seed)
        context = self._context(moment, latents.to(device), positions.to(device))
        first = torch.arange(self.actions, device=device).repeat_interleave(self.tries)
        held = first[:, None, None].expand(-1, self.reach.clock.frames_per_latent, 1)
        drawn = draw_noise(world, self.tries, self.reach.context, self.horizon, generator)
        drawn = Noise(drawn.normal.repeat(1, self.actions, 1, 1), drawn.uniform.repeat(1, self.actions, 1, 1))
        with self.backend.autocast():
            rollout = imagine(world, agent, context, self.horizon, generator, first=held, drawn=drawn)
            logits = agent.policy(rollout.features[:1, 0])
            real = self._play(moment, context, held, drawn.uniform.to(device), seed)
        shape = (self.actions, self.tries, self.horizon)
        return Tried(
            real=real.reshape(shape),
            imagined=(rollout.rewards * survival(rollout.continues)).float().cpu().numpy().reshape(shape),
            policy=logits[0].softmax(-1).mean(0).float().cpu().numpy(),
        )

    def _play(self, moment: Moment, context: Batch, first: Tensor, uniform: Tensor, seed: int) -> Float[ndarray, "b h"]:
        """Play the real side, in lockstep."""
        chunk, count = self.reach.clock.frames_per_latent, self.actions * self.tries
        chances = np.random.default_rng(seed).integers(2**32, size=self.tries)
        self.pool.restore(moment.snapshot, np.tile(chances, self.actions).tolist())
        self._remember(context)
        self._look_back(moment, count)
        active, rewards = np.ones(count, bool), np.zeros((count, self.horizon))
        taken = first
        for step in range(self.horizon):
            self.actor.did(taken)
            played = self.pool.step(taken.cpu().numpy(), active)
            rewards[:, step] = played.rewards @ self.gamma ** np.arange(chunk)
            self.tell(int(active.sum()))
            active = active & ~played.ended
            if not active.any() or step + 1 == self.horizon:
                break
            latents = self.encoder.push(torch.from_numpy(played.frames)).to(taken.device)
            positions = torch.full((count,), self.encoder.position, device=taken.device)
            taken = self.actor.act(latents, positions, uniform=uniform[step + 1])
        return rewards

    def _remember(self, context: Batch) -> None:
        """The real steps, for a policy that remembers; another one looks at the newest alone."""
        self.actor.reset()
        if self.actor.agent.remembers:
            if bool(context.action_valid[0, 0].all()):
                self.actor.did(context.actions[:, 0])
            for step in range(self.reach.context):
                self.actor.act(context.latents[:, step], context.positions[:, step])
                if step + 1 < self.reach.context:
                    self.actor.did(context.actions[:, step + 1])

    def _look_back(self, moment: Moment, count: int) -> None:
        """The encoder at the moment, in all branches: its window's frames so far."""
        chunk = self.reach.clock.frames_per_latent
        frames = torch.from_numpy(moment.frames[-1 if chunk == 1 else -1 - chunk :])
        frames = frames.expand(count, *frames.shape)
        self.encoder.reset(frames[:, 0])
        if chunk > 1:
            self.encoder.push(frames[:, 1:])

    def _context(self, moment: Moment, latents: Tensor, positions: Tensor) -> Batch:
        """The real steps in front of every branch."""
        count, (steps, chunk) = self.actions * self.tries, moment.actions.shape[:2]
        device, known = latents.device, torch.from_numpy(moment.known).to(latents.device)
        batch = replace(
            Batch.blank(1, steps, chunk, moment.actions.shape[2], device, known=False),
            latents=latents.float()[None],
            positions=positions[None],
            actions=torch.from_numpy(moment.actions).to(device)[None],
            action_valid=known[None, :, None].expand(-1, -1, chunk),
            task=torch.full((1,), self.actor.task, device=device),
        )
        return batch.take(torch.zeros(count, dtype=torch.int64, device=device))


def stacked(tried: list[Tried]) -> Tried:
    """The tries of several moments, stacked."""
    return Tried(*(np.stack([getattr(one, name) for one in tried]) for name in ("real", "imagined", "policy")))
