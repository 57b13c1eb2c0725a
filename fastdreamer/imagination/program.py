"""Imagination as one static program: fixed buffers, fixed shapes, no host synchronisation; compiled, captured, or neither.

One latent step (denoising passes, commit, heads, sampling of the action) reads and writes buffers that are made once,
finds its place by index tensors, and takes its noise from buffers that a generator fills in front of the rollout. So
the same region runs eagerly, under torch.compile, and in a CUDA graph. `rollout.imagine` is the plain version that
it is compared with: the same generator gives the same rollout.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from fastdreamer.data.clips import Batch
from fastdreamer.device import Backend
from fastdreamer.dynamics.sampler import commit, commit_and_sample_next, sample_next
from fastdreamer.dynamics.world_model import WorldModel
from fastdreamer.heads.agent import Agent
from fastdreamer.imagination.capture import capture
from fastdreamer.imagination.rollout import Rollout


class Program:
    """Rollouts of `dreams` sequences over `horizon` latent steps, from `context` real ones.

    Args:
        world: frozen world model.
        agent: policy that acts; reward and continuation heads that score. Its weights are read anew at every call.
        dreams: sequences at once.
        context: real steps of every start.
        horizon: H in latent steps.
        backend: device, precision, and whether to compile and capture.
        generator: of all noise, on the backend's device.
        merges: commit a step together with the first denoising pass of the next: K passes a step, not K + 1.
        captures: "off", or on a card what one CUDA graph holds: a "step", or the whole "horizon".

    Raises:
        ValueError: if commits are to be merged while the policy reads what agent tokens read.
    """

    def __init__(
        self,
        world: WorldModel,
        agent: Agent,
        dreams: int,
        context: int,
        horizon: int,
        backend: Backend,
        generator: torch.Generator,
        merges: bool = False,
        captures: str = "off",
    ) -> None:
        if merges and agent.agent_tokens:
            raise ValueError("commits cannot be merged where the policy reads agent tokens: they come with the commit")
        self.world, self.agent, self.backend, self.generator = world, agent, backend, generator
        self.context, self.horizon, self.merges = context, horizon, merges
        device, clock, sizes = backend.device, world.clock, world.sizes
        shape = (dreams, *world.tokens.place.shape[:1], world.readout.out_features)
        self.noise = torch.zeros(context + 2 * horizon, *shape, device=device)
        self.uniform = torch.zeros(horizon, dreams, clock.frames_per_latent, sum(sizes), device=device)
        self.latents = torch.zeros(horizon + 1, *shape, device=device)
        self.features = torch.zeros(horizon + 1, dreams, agent.feature_width, device=device)
        chunk = (horizon, dreams, clock.frames_per_latent, len(sizes))
        self.actions = torch.zeros(chunk, dtype=torch.int64, device=device)
        self.task = torch.zeros(dreams, dtype=torch.int64, device=device)
        self.token = torch.zeros(dreams, world.config.dim, device=device)
        self.step_number = torch.zeros(1, dtype=torch.int64, device=device)
        self.known = torch.ones(dreams, 1, clock.frames_per_latent, dtype=torch.bool, device=device)
        with self._precision():
            self.cache = world.new_cache(dreams, agent.token_count, max(context, 2) if merges else context)
        self._run = self._all_steps
        self._region: Callable[[], None] = self._step
        if backend.compiles:
            self._region = torch.compile(self._step, fullgraph=True, dynamic=False)
        with torch.no_grad():
            if captures == "step":
                self._region = capture(self._region)
            elif captures == "horizon":
                self._run = capture(self._all_steps)

    @torch.no_grad()
    def __call__(self, batch: Batch) -> Rollout:
        """A rollout from the real crops in `batch` (`context` steps each); its tensors are its own."""
        self.noise.normal_(generator=self.generator)
        self.uniform.uniform_(generator=self.generator)
        self._start(batch)
        self._run()
        with self._precision():
            features = self.features.transpose(0, 1)
            rewards = self.agent.reward.decode(self.agent.reward(self.agent.reward_inputs(features)))
            continues = self.agent.continues(features)
        return Rollout(
            latents=self.latents.transpose(0, 1).clone(),
            features=features.clone(),
            actions=self.actions.transpose(0, 1).clone(),
            rewards=rewards[:, 1:],
            continues=continues[:, 1:],
        )

    def _precision(self) -> torch.autocast:
        return torch.autocast(self.backend.device.type, torch.bfloat16, enabled=self.backend.precision == "bf16")

    def _start(self, batch: Batch) -> None:
        """The real steps into the cache, all in one pass; with merged commits the last one waits for the region."""
        self.cache.reset()
        self.step_number.zero_()
        real = self.world.normalise(batch.latents, batch.positions)
        self.task.copy_(batch.task)
        self.latents[0].copy_(real[:, -1])
        with self._precision():
            action = self.world.embed_actions(batch.actions, batch.action_valid, batch.labelled)
            tokens = self.agent.embed_tokens(self.task)
            self.token.copy_(action[:, -1])
            count = self.context - self.merges
            read = None
            if count:
                noise = self.noise[:count].transpose(0, 1)
                read = commit(self.world, self.cache, real[:, :count], action[:, :count], noise, tokens)[:, -1]
            self.features[0].copy_(self.agent.features(real[:, -1], read, self.task))

    def _all_steps(self) -> None:
        for _ in range(self.horizon):
            self._region()

    def _step(self) -> None:
        """One latent step, from the buffers at `step_number` to those behind it."""
        world, agent, k = self.world, self.agent, self.step_number
        after = k + 1
        with self._precision():
            uniform, context_noise, noise, next_noise = (
                buffer.index_select(0, at)[0]
                for buffer, at in (
                    (self.uniform, k),
                    (self.noise, self.context + 2 * k - 1),
                    (self.noise, self.context + 2 * k),
                    (self.noise, self.context + 2 * k + 1),
                )
            )
            feature = self.features.index_select(0, k)[0]
            chunk = agent.policy.choose(agent.policy(feature), uniform)
            token = world.embed_actions(chunk[:, None], self.known, self.known[:, 0, 0])[:, 0]
            read = None
            if self.merges:
                latents = self.latents.index_select(0, k)[0]
                state = commit_and_sample_next(world, self.cache, latents, self.token, context_noise, token, noise)
            else:
                tokens = agent.embed_tokens(self.task)
                state = sample_next(world, self.cache, token, noise, tokens)
                read = commit(world, self.cache, state[:, None], token[:, None], next_noise[:, None], tokens)[:, 0]
            feature = agent.features(state, read, self.task)
        self.token.copy_(token)
        self.latents.index_copy_(0, after, state[None])
        self.features.index_copy_(0, after, feature[None].float())
        self.actions.index_copy_(0, k, chunk[None])
        self.step_number.copy_(after)
