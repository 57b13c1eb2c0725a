"""A tiny world model and agent that are far from their zero start, real crops, and a way to break them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from fastdreamer.config import (
    Config,
    DynamicsConfig,
    EvaluationConfig,
    ForcingConfig,
    HeadsConfig,
    ImaginationConfig,
    TokenizerConfig,
    load_config,
)
from fastdreamer.device import Backend
from fastdreamer.dynamics.world_model import WorldModel
from fastdreamer.heads.agent import Agent
from fastdreamer.imagination.program import Program
from fastdreamer.imagination.rollout import Rollout, imagine
from fastdreamer.latents.batch import Batch
from fastdreamer.recordings.actions import action_space

CPU = torch.device("cpu")
TOKENS = ("heads.readout=agent_tokens", "dynamics.agent_tokens=2")
BAND = ("dynamics.window=4", "dynamics.context=3", "evaluation.context=1")  # rollouts run past eviction


@dataclass(frozen=True)
class Imagined:
    """All that a rollout needs."""

    config: Config
    world: WorldModel
    agent: Agent
    batch: Batch

    def program(
        self,
        horizon: int,
        merges: bool = False,
        seed: int = 3,
        backend: Backend | None = None,
        captures: str = "off",
        shuffles: bool = False,
    ) -> Program:
        backend = backend or Backend(self.batch.latents.device, "fp32")
        generator = torch.Generator(backend.device).manual_seed(seed)
        count, context = self.batch.latents.shape[:2]
        sizes = (count, context, horizon)
        return Program(self.world, self.agent, *sizes, backend, generator, merges, captures, shuffles)

    def reference(self, horizon: int, seed: int = 3) -> Rollout:
        generator = torch.Generator(self.batch.latents.device).manual_seed(seed)
        return imagine(self.world, self.agent, self.batch, horizon, generator)


def rollouts(*overrides: str, count: int = 3, context: int = 1, device: torch.device = CPU) -> Imagined:
    """The debug preset, smaller still."""
    return rollouts_of(load_config("debug", ["dynamics.dim=16", *overrides]), count, context, device)


def rollouts_of(config: Config, count: int = 3, context: int = 1, device: torch.device = CPU) -> Imagined:
    """Weights are drawn on the CPU, so that every device has the same."""
    sizes = action_space(config.data.env).sizes
    torch.manual_seed(0)
    world, agent = WorldModel.build(config, sizes), Agent(config, sizes)
    nn.init.normal_(world.readout.weight, std=config.dynamics.dim**-0.5)
    for head in (agent.policy, agent.reward, agent.value, agent.continuation):
        nn.init.normal_(head.net.out.weight, std=0.2)
    for net in agent.reward.others:
        nn.init.normal_(net.out.weight, std=0.2)  # type: ignore[union-attr, arg-type]
    if world.linear is not None:
        nn.init.normal_(world.linear.weight, std=0.02)
        nn.init.uniform_(world.linear.variance, 0.05, 0.5)
    for block in world.transformer.blocks:
        for layer in (block.attention.out, block.feed_forward.down):  # type: ignore[union-attr]
            nn.init.normal_(layer.weight, std=0.1)  # type: ignore[union-attr, arg-type]
    for model in (world, agent):
        model.to(device).eval().requires_grad_(False)
    return Imagined(config, world, agent, crops(config, sizes, count, context).to(device))


def crops(config: Config, sizes: tuple[int, ...], count: int, context: int) -> Batch:
    """Real steps that are as good as any."""
    generator = torch.Generator().manual_seed(1)
    chunk = config.tokenizer.frames_per_latent
    actions = torch.stack([torch.randint(s, (count, context, chunk), generator=generator) for s in sizes], -1)
    known = torch.ones(count, context, chunk, dtype=torch.bool)
    return Batch(
        latents=torch.randn(count, context, 16, 16, generator=generator),
        positions=torch.full((count, context), min(1, config.tokenizer.clock.positions - 1)),
        target_valid=known[..., 0],
        actions=actions,
        action_valid=known,
        next_actions=actions,
        next_valid=known,
        rewards=torch.zeros(count, context),
        continues=torch.ones(count, context),
        reward_valid=known[..., 0],
        labelled=known[:, 0, 0],
        task=torch.zeros(count, dtype=torch.int64),
    )


def largest_difference(a: Rollout, b: Rollout) -> float:
    """Over all that a rollout holds, relative to its largest number above 1; actions must be the same."""
    assert torch.equal(a.actions, b.actions)
    pairs = ((a.latents, b.latents), (a.features, b.features), (a.rewards, b.rewards), (a.continues, b.continues))
    return max(float((x - y).abs().max() / y.abs().max().clamp(min=1)) for x, y in pairs)


def tiny(context: int = 3, agent_tokens: int = 0) -> Config:
    """A configuration made in code, for where no YAML can be read; rollouts run past eviction."""
    return Config(
        tokenizer=TokenizerConfig(frames_per_latent=8, window=33),
        dynamics=DynamicsConfig(
            dim=32, layers=3, heads=2, kv_heads=1, time_every=2, registers=2, window=4, context=context,
            agent_tokens=agent_tokens,
        ),
        forcing=ForcingConfig(finest_steps=8, sample_steps=4),
        heads=HeadsConfig(
            hidden=32, layers=1, bins=41, reward_range=3.0, value_range=4.0,
            readout="agent_tokens" if agent_tokens else "latents",
        ),
        imagination=ImaginationConfig(horizon=3, start_context=1),
        evaluation=EvaluationConfig(context=1),
    )  # fmt: skip
