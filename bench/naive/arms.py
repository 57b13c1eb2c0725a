"""The two arms of every comparison, on the same weights, batch and noise. Point `our_*` at what is to be measured."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from bench.naive import rollout as naive_rollout
from bench.naive.model import NaiveWorldModel
from bench.naive.phase1 import Trainer
from fastdreamer.config import Config
from fastdreamer.data.actions import action_space
from fastdreamer.data.clips import Batch
from fastdreamer.data.latents import LatentStore
from fastdreamer.data.sampler import CropSampler
from fastdreamer.data.synthetic import write_synthetic_store
from fastdreamer.dynamics.forcing import Levels, draw_levels, forcing_loss
from fastdreamer.dynamics.world_model import WorldModel
from fastdreamer.heads.agent import Agent
from fastdreamer.imagination.rollout import Rollout, imagine
from fastdreamer.training.optim import Average, RunningScale, build_optimizers, learning_rate

Step = Callable[[], Tensor]
"""Takes the next optimisation step on the one batch; returns its unscaled loss."""
Dream = Callable[[int], Rollout]
"""Rolls out the given horizon, always from the same states under the same noise."""


@dataclass(frozen=True)
class Work:
    """What both arms are given.

    Attributes:
        world: and `agent`: the weights; arms train copies.
        crops: of `dynamics.window` steps, `noise` and `levels`: one batch of phase 1.
        starts: crops of `start_context` steps, from which dreams begin.
    """

    config: Config
    world: WorldModel
    agent: Agent
    crops: Batch
    noise: Tensor
    levels: Levels
    starts: Batch


def build(config: Config, device: torch.device) -> Work:
    """Random weights and made-up latents. Layers that start at zero are filled, or they would hide everything."""
    space = action_space(config.data.env)
    with tempfile.TemporaryDirectory() as folder:
        write_synthetic_store(Path(folder), config.tokenizer.clock, space, 4, 4 * config.dynamics.window, config.seed)
        episodes = LatentStore.open(Path(folder)).split("train")

    def draw(steps: int, count: int) -> Batch:
        sampler = CropSampler(episodes, config.tokenizer.clock, steps, count, config.seed)
        return sampler.batch(0).to(device)

    torch.manual_seed(config.seed)
    world, agent = WorldModel.build(config, space.sizes), Agent(config, space.sizes)
    for layer in (world.readout, *(head.net.out for head in (agent.policy, agent.reward, agent.value))):
        nn.init.normal_(layer.weight, std=layer.in_features**-0.5)
    agent.continuation.net.out.bias.data.fill_(4.0)  # dreams that go on, as a trained head would have them
    crops = draw(config.dynamics.window, config.phase1.batch_size)
    generator = torch.Generator().manual_seed(config.seed)
    return Work(
        config=config,
        world=world.to(device).eval(),
        agent=agent.to(device).eval().requires_grad_(False),
        crops=crops,
        noise=torch.randn(crops.latents.shape, generator=generator).to(device),
        levels=exact_levels(config, generator).to(device),
        starts=draw(config.imagination.start_context, config.phase3.batch_size),
    )


def exact_levels(config: Config, generator: torch.Generator) -> Levels:
    """Levels of a batch with as many bootstrap rows as the share says, not about as many."""
    count, steps, forcing = config.phase1.batch_size, config.dynamics.window, config.forcing
    boots = round(forcing.boot_fraction * count)
    boot, flow = (draw_levels(n, steps, forcing, p, generator) for n, p in ((boots, 1.0), (count - boots, 0.0)))
    parts = [torch.cat([getattr(x, name) for x in (boot, flow)]) for name in ("signal", "step_size", "is_boot")]
    return Levels(*parts)


def naive_step(work: Work, precision: str) -> Step:
    """The plain optimisation step."""
    train = work.config.phase1
    trainer = Trainer(NaiveWorldModel.copy_of(work.world), train)
    number = 0

    def step() -> Tensor:
        nonlocal number
        with torch.autocast(work.noise.device.type, torch.bfloat16, enabled=precision == "bf16"):
            loss = trainer.loss(work.crops, work.noise, work.levels)
        trainer.update(loss, learning_rate(train, number), number)
        number += 1
        return loss.detach()

    return step


def our_step(work: Work, precision: str) -> Step:
    """The optimisation step of `fastdreamer.training.loop.fit` for phase 1."""
    train, crops, levels = work.config.phase1, work.crops, work.levels
    world = copy.deepcopy(work.world).train()
    scale = RunningScale(["dynamics"]).to(work.noise.device)
    model = nn.ModuleDict({"world": world, "scale": scale})
    optimizers = build_optimizers(model.named_parameters(), train)
    average = Average(model, train.ema_decay)
    number = 0

    def step() -> Tensor:
        nonlocal number
        for group in (group for optimizer in optimizers for group in optimizer.param_groups):
            group["lr"] = learning_rate(train, number)
        with torch.autocast(work.noise.device.type, torch.bfloat16, enabled=precision == "bf16"):
            clean = world.normalise(crops.latents, crops.positions)
            action = world.embed_actions(crops.actions, crops.action_valid, crops.labelled)

            def predict(noisy: Tensor, signal: Tensor, step_size: Tensor, rows: Tensor) -> Tensor:
                out: Tensor = world(noisy, signal, step_size, action[rows])
                return out

            finest = work.config.forcing.finest_steps
            losses = forcing_loss(predict, clean, work.noise, levels, finest, crops.target_valid)
            loss = scale(losses)
        loss.backward()
        nn.utils.clip_grad_norm_(world.parameters(), train.clip_norm)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        average.update(model, number)
        number += 1
        return losses["dynamics"].detach()

    return step


def naive_dream(work: Work, precision: str) -> Dream:
    """Imagination by recomputing everything."""
    model = NaiveWorldModel.copy_of(work.world)

    def dream(horizon: int) -> Rollout:
        generator = torch.Generator().manual_seed(work.config.seed)
        with torch.autocast(work.noise.device.type, torch.bfloat16, enabled=precision == "bf16"):
            return naive_rollout.imagine(model, work.agent, work.starts, horizon, generator)

    return dream


def our_dream(work: Work, precision: str) -> Dream:
    """Imagination on the ring cache, as phase 3 runs it."""

    def dream(horizon: int) -> Rollout:
        generator = torch.Generator().manual_seed(work.config.seed)
        with torch.autocast(work.noise.device.type, torch.bfloat16, enabled=precision == "bf16"):
            return imagine(work.world, work.agent, work.starts, horizon, generator)

    return dream


def with_band(work: Work) -> Work:
    """The same work with time attention over half a window where it is a whole one, so that dreams may be longer."""
    dynamics = work.config.dynamics
    if dynamics.context < dynamics.window:
        return work
    config = replace(work.config, dynamics=replace(dynamics, context=dynamics.window // 2))
    world = WorldModel.build(config, work.world.sizes).to(work.noise.device).eval()
    world.load_state_dict(work.world.state_dict())
    return replace(work, config=config, world=world)
