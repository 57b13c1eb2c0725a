"""Imagination as one static program: fixed buffers and shapes, no host synchronisation; compiled, captured, or neither.

One latent step (denoising passes, commit, heads, sampling of the action) reads and writes buffers that are made once,
finds its place by index tensors, and takes its noise from buffers that a generator fills in front of the rollout. So
the same region runs eagerly, under torch.compile, and in a CUDA graph. `rollout.imagine` is the plain version that
it is compared with: the same generator gives the same rollout.
"""

from __future__ import annotations

from copy import copy as shallow
from copy import deepcopy
from typing import TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from fastdreamer.config import Config
from fastdreamer.device import Backend
from fastdreamer.dynamics.sampler import commit, commit_and_sample_next, sample_next
from fastdreamer.dynamics.world_model import WorldModel
from fastdreamer.errors import UserError
from fastdreamer.heads.agent import Agent
from fastdreamer.imagination.capture import capture
from fastdreamer.imagination.merging import prove_merged
from fastdreamer.imagination.rollout import Noise, Rollout
from fastdreamer.latents.batch import Batch
from fastdreamer.shapes import CHANNELS, TOKENS
from fastdreamer.system.ranges import span

Module = TypeVar("Module", bound=nn.Module)


class Program:
    """Imagines `rollouts` sequences over `horizon` latent steps, from `context` real ones.

    Args:
        world: frozen world model.
        agent: policy that acts; reward and continuation heads that score. Its weights are read anew at every call.
        rollouts: sequences at once.
        context: real steps of every start.
        horizon: H in latent steps.
        backend: device, precision, and whether to compile.
        generator: the source of all noise, on the backend's device.
        merges: commit a step together with the first denoising pass of the next: K passes a step, not K + 1.
        captures: "off", or on a GPU what one CUDA graph holds: a "step", or the whole "horizon".
        shuffles: a control: at every step all that reads actions hears that of another dream, drawn anew (`heard`),
            while `actions` stay those that the policy took.
        steps: the steps of the horizon that are taken; fewer than all for a memory plan, to which they are alike.

    Raises:
        ValueError: if commits are to be merged while the policy reads what agent tokens read.
    """

    def __init__(
        self,
        world: WorldModel,
        agent: Agent,
        rollouts: int,
        context: int,
        horizon: int,
        backend: Backend,
        generator: torch.Generator,
        merges: bool = False,
        captures: str = "off",
        shuffles: bool = False,
        steps: int | None = None,
    ) -> None:
        if merges and agent.agent_tokens:
            raise ValueError("commits cannot be merged where the policy reads agent tokens: they come with the commit")
        self.world, self.agent, self.backend, self.generator = for_inference(world, backend), agent, backend, generator
        self.context, self.merges, self.steps = context, merges, horizon if steps is None else steps
        device, clock, sizes = backend.device, world.clock, world.sizes
        shape = (rollouts, TOKENS, CHANNELS)
        self.noise = torch.zeros(context + 2 * horizon, *shape, device=device)
        self.uniform = torch.zeros(horizon, rollouts, clock.frames_per_latent, sum(sizes), device=device)
        self.latents = torch.zeros(horizon + 1, *shape, device=device)
        self.features = torch.zeros(horizon + 1, rollouts, agent.feature_width, device=device)
        chunk = (horizon, rollouts, clock.frames_per_latent, len(sizes))
        self.actions = torch.zeros(chunk, dtype=torch.int64, device=device)
        self.shuffled = torch.zeros_like(self.actions) if shuffles else None
        self.task = torch.zeros(rollouts, dtype=torch.int64, device=device)
        self.trace = agent.history.start(rollouts) if agent.history is not None else None
        self.token = torch.zeros(rollouts, world.action_width, device=device)
        self.step_number = torch.zeros(1, dtype=torch.int64, device=device)
        self.known = torch.ones(rollouts, 1, clock.frames_per_latent, dtype=torch.bool, device=device)
        at_once = max(1 + merges, context - world.config.context + 1)  # the first pass takes the real steps together
        with backend.autocast():
            self.cache = world.new_cache(rollouts, agent.token_count, at_once)
        self._act, self._score = backend.compiled(self._choose), backend.compiled(self._judge)
        self._region, self._run = self._step, self._all_steps
        with torch.no_grad():
            if captures == "step":
                self._region = capture(self._step, before=self.step_number.zero_)
            elif captures == "horizon":
                self._run = capture(self._all_steps)

    @torch.no_grad()
    def __call__(self, batch: Batch, noise: Noise | None = None) -> Rollout:
        """A rollout from the real crops in `batch` (`context` steps each); its tensors are its own.

        Its noise is drawn here, or given: some rows of what a larger rollout would have drawn.
        """
        if noise is None:
            self.noise.normal_(generator=self.generator)
            self.uniform.uniform_(generator=self.generator)
        else:
            self.noise.copy_(noise.normal)
            self.uniform.copy_(noise.uniform)
        with span("context"):
            self._start(batch)
        with span("rollout"):
            self._run()
        features = self.features.transpose(0, 1).clone()
        actions = self.actions.transpose(0, 1).clone()
        with span("heads"), self.backend.autocast():
            rewards, continues = self._score(features, self.heard.transpose(0, 1).clone())
        return Rollout(
            latents=self.latents.transpose(0, 1).clone(),
            features=features,
            actions=actions,
            rewards=rewards,
            continues=continues,
        )

    @property
    def heard(self) -> Int[Tensor, "h b c k"]:
        """The actions that the world was given in the last rollout: those the policy took, but for a control."""
        return self.actions if self.shuffled is None else self.shuffled

    def buffers(self) -> list[Tensor]:
        """What stays from rollout to rollout beside the KV caches."""
        return [value for value in vars(self).values() if isinstance(value, Tensor)]

    def _start(self, batch: Batch) -> None:
        """Write the real steps to the cache, all in one pass; with merged commits the last one waits for the region."""
        self.cache.reset()
        self.step_number.zero_()
        real = self.world.normalise(batch.latents, batch.positions)
        self.task.copy_(batch.task)
        self.latents[0].copy_(real[:, -1])
        with self.backend.autocast():
            action = self.world.embed_actions(batch.actions, batch.action_valid, batch.labelled)
            tokens = self.agent.embed_tokens(self.task)
            self.token.copy_(action[:, -1])
            count = self.context - self.merges
            read = None
            if count:
                noise = self.noise[:count].transpose(0, 1)
                read = commit(self.world, self.cache, real[:, :count], action[:, :count], noise, tokens)
            traces = self.agent.traces(batch)
            if self.trace is not None and traces is not None:
                self.trace.copy_(traces[:, -1])
            self.features[0].copy_(self.agent.features(real[:, -1], read, self.task, self.trace))

    def _all_steps(self) -> None:
        self.step_number.zero_()
        for _ in range(self.steps):
            self._region()

    def _step(self) -> None:
        """Take one latent step, from the buffers at `step_number` to those behind it."""
        world, k = self.world, self.step_number
        after, noise_at = k + 1, self.context + 2 * k
        with self.backend.autocast():
            with span("policy"):
                chunk, token = self._act(_row(self.features, k), _row(self.uniform, k))
            noise, read, heard = _row(self.noise, noise_at), None, chunk
            if self.shuffled is not None:
                others = _others(noise)
                token, heard = token.index_select(0, others), chunk.index_select(0, others)
                self.shuffled.index_copy_(0, k, heard[None])
            if self.merges:
                finished, its_noise = _row(self.latents, k), _row(self.noise, noise_at - 1)
                with span("denoise"):  # and commit
                    state = commit_and_sample_next(world, self.cache, finished, self.token, its_noise, token, noise)
            else:
                tokens, its_noise = self.agent.embed_tokens(self.task), _row(self.noise, noise_at + 1)
                with span("denoise"):
                    state = sample_next(world, self.cache, token, noise)
                with span("commit"):
                    read = commit(world, self.cache, state[:, None], token[:, None], its_noise[:, None], tokens)
            if self.agent.history is not None and self.trace is not None:
                self.trace.copy_(self.agent.history.after(self.trace, heard, self.known[:, 0]))
            feature = self.agent.features(state, read, self.task, self.trace)
        self.token.copy_(token)
        self.latents.index_copy_(0, after, state[None])
        self.features.index_copy_(0, after, feature[None].float())
        self.actions.index_copy_(0, k, chunk[None])
        self.step_number.copy_(after)

    def _choose(self, feature: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
        """Choose a chunk of actions; return it and its token."""
        chunk = self.agent.policy.choose(self.agent.policy(feature), uniform)
        return chunk, self.world.embed_actions(chunk[:, None], self.known, self.known[:, 0, 0])[:, 0]

    def _judge(self, features: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Judge every state but the first: rewards and continuations."""
        return self.agent.imagined_rewards(features, actions), self.agent.continues(features)[:, 1:]


def _row(buffer: Tensor, at: Int[Tensor, "1"]) -> Tensor:
    """A row by an index that stays on the device."""
    return buffer.index_select(0, at)[0]


def _others(noise: Float[Tensor, "b n z"]) -> Int[Tensor, " b"]:
    """Another dream for each dream: its neighbour in a random ring, whose order is that of noise used elsewhere."""
    ring = noise[:, 0, 0].argsort()
    return torch.empty_like(ring).index_copy_(0, ring, ring.roll(1))


def build_program(
    config: Config,
    world: WorldModel,
    agent: Agent,
    rollouts: int,
    backend: Backend,
    generator: torch.Generator,
    proves: bool = True,
    shuffles: bool = False,
    steps: int | None = None,
) -> Program:
    """The program that a configuration asks for, compared with the plain order of passes where it merges commits.

    Only what has no values to compare (a memory plan) may leave the comparison out with `proves`. For `shuffles` and
    `steps` see `Program`.

    Raises:
        UserError: if a capture is asked for where there is no GPU, or merged commits do not give the same latents.
    """
    settings = config.imagination
    is_gpu = backend.device.type == "cuda"
    if settings.capture in ("step", "horizon") and not is_gpu:
        raise UserError(f"imagination.capture is {settings.capture}, but CUDA graphs need a GPU: set it to auto")
    captures = settings.capture if settings.capture != "auto" else "step" if is_gpu else "off"
    merges = settings.merge_commit == "on" or (settings.merge_commit == "auto" and not agent.agent_tokens)
    if merges and proves:
        prove_merged(world)
    sizes = (rollouts, settings.start_context, settings.horizon)
    return Program(world, agent, *sizes, backend, generator, merges, captures, shuffles, steps)


def for_inference(world: WorldModel, backend: Backend) -> WorldModel:
    """A frozen copy whose passes are compiled, and whose products' weights are cast once, not at every pass."""
    if backend.precision == "fp32" and not backend.may_compile:
        return world
    copy = shallow(world) if backend.precision == "fp32" else cast_once(world, backend)
    copy.read = backend.compiled(copy.read)  # type: ignore[method-assign]
    return copy


def cast_once(module: Module, backend: Backend) -> Module:
    """A frozen copy whose products' weights are in the backend's precision.

    Autocast casts a weight at each use; a frozen one gives the same bits cast in front.
    """
    copy = deepcopy(module)
    if backend.precision == "bf16":
        for part in copy.modules():
            if isinstance(part, nn.Linear):
                for name, p in list(part.named_parameters()):
                    setattr(part, name, nn.Parameter(p.to(torch.bfloat16), requires_grad=False))
    return copy
