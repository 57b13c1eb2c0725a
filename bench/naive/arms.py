"""The arms of every comparison, on the same weights, batch and noise. Point `our_*` at what is to be measured."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from bench.naive import public
from bench.naive.model import NaiveWorldModel
from bench.naive.objectives import Trainer, batch_loss
from bench.naive.rollout import Cached, Recomputed
from bench.naive.rollout import imagine as imagine_plainly
from bench.phases import Optimisation, loader_of, models
from fastdreamer.config import Config
from fastdreamer.device import Backend
from fastdreamer.dynamics.forcing import Levels, draw_levels, loss_shares
from fastdreamer.dynamics.tokens import choice_offsets, multi_hot
from fastdreamer.dynamics.world_model import WorldModel
from fastdreamer.heads.agent import Agent
from fastdreamer.imagination.program import Program
from fastdreamer.imagination.rollout import Rollout, imagine
from fastdreamer.latents.batch import Batch
from fastdreamer.latents.loader import Loader
from fastdreamer.training.world_model_phase import ForcingBatch, WorldModelPhase

Step = Callable[[], Tensor]
"""Takes the next optimisation step on the one batch; returns its unscaled loss."""
ImaginedRollout = Callable[[int], Rollout]
"""Rolls out a horizon, always from the same states under the same noise."""
KINDS = ("plain", "program", "merged")
"""Our rollouts: step by step, as a static program, and with each commit merged into the next denoising pass."""


@dataclass(frozen=True)
class NaivePhase:
    """Models and data that all arms are given.

    Attributes:
        world: and `agent`: the weights; arms train copies.
        crops: crops of `dynamics.window` steps, `noise` and `levels`: one batch of phase 1.
        starts: crops of `start_context` steps, from which dreams begin.
    """

    config: Config
    world: WorldModel
    agent: Agent
    crops: Batch
    noise: Tensor
    levels: Levels
    starts: Batch

    @property
    def device(self) -> torch.device:
        """The device of all of it."""
        return self.noise.device

    @property
    def forcing(self) -> ForcingBatch:
        """The batch as phase 1 draws it."""
        crops, finest = self.crops, self.config.forcing.finest_steps
        return ForcingBatch(
            clean=self.world.normalise(crops.latents, crops.positions),
            noise=self.noise,
            levels=self.levels,
            shares=loss_shares(self.levels, finest, crops.target_valid),
            present=crops.target_valid / crops.target_valid.sum().clamp(min=1),
            actions=crops.actions,
            action_valid=crops.action_valid,
            labelled=crops.labelled,
        )


def build(config: Config, device: torch.device) -> NaivePhase:
    """Make the work: random weights and made-up latents."""
    world, agent = models(config, device)
    crops = loader_of(config, 1, device).draw()
    generator = torch.Generator(device).manual_seed(config.seed)
    return NaivePhase(
        config=config,
        world=world.eval(),
        agent=agent.eval().requires_grad_(False),
        crops=crops,
        noise=torch.randn(crops.latents.shape, generator=generator, device=device),
        levels=levels_of(config, generator),
        starts=loader_of(config, 3, device).draw(),
    )


def levels_of(config: Config, generator: torch.Generator) -> Levels:
    """Levels of a batch whose share of bootstrap rows is the configured one, rounded to whole rows."""
    count, forcing = config.phase1.batch_size, config.forcing
    boots = round(forcing.boot_fraction * count)
    return draw_levels(count, config.dynamics.window, forcing.finest_steps, boots, generator)


def naive_step(work: NaivePhase, backend: Backend) -> Step:
    """The plain optimisation step."""
    model = NaiveWorldModel.copy_of(work.world)
    trainer = Trainer(model, work.config.phase1, ("dynamics",))

    def step() -> Tensor:
        with backend.autocast():
            loss = batch_loss(model, work.crops, work.noise, work.levels)
        trainer.update({"dynamics": loss})
        return loss.detach()

    return step


def public_step(work: NaivePhase, backend: Backend) -> Step:
    """The optimisation step of the fastest public implementation, on as many parameters as ours."""
    train, crops, sizes = work.config.phase1, work.crops, work.world.sizes
    offsets = choice_offsets(crops.actions.shape[2], sizes).to(work.device)
    choices = crops.actions.shape[2] * sum(sizes)
    size = sum(p.numel() for p in work.world.parameters())
    with torch.random.fork_rng(devices=[]):
        model = public.as_large(work.config, choices, size).to(work.device)
    trainer = public.PublicTrainer(model, train)
    clean, finest = work.world.normalise(crops.latents, crops.positions), work.config.forcing.finest_steps

    def step() -> Tensor:
        with backend.autocast():
            action = multi_hot(crops.actions, crops.action_valid & crops.labelled[:, None, None], offsets, choices)
            loss = public.forcing_loss(model, clean, work.noise, action, work.levels, finest)
        trainer.update(loss)
        return loss.detach()

    return step


class OneWork(WorldModelPhase):
    """Phase 1 that draws the same batch for ever."""

    def __init__(self, config: Config, world: WorldModel, loader: Loader, backend: Backend, work: ForcingBatch) -> None:
        super().__init__(config, world, loader, backend)
        self.work = work

    def draw(self) -> ForcingBatch:
        """Return the one batch."""
        return self.work


def our_step(work: NaivePhase, backend: Backend) -> Step:
    """The optimisation step of `fastdreamer.training.loop.fit` for phase 1."""
    world = copy.deepcopy(work.world).train()
    phase = OneWork(work.config, world, loader_of(work.config, 1, work.device), backend, work.forcing)
    optimisation = Optimisation(phase, work.config.phase1, backend)
    return lambda: optimisation.step()["loss/dynamics"]


def naive_imagination(work: NaivePhase, backend: Backend, has_cache: bool = False) -> ImaginedRollout:
    """Imagination by recomputing everything, or with a cache that grows by concatenation."""
    model, way = NaiveWorldModel.copy_of(work.world), Cached if has_cache else Recomputed

    def rollout(horizon: int) -> Rollout:
        generator = torch.Generator(work.device).manual_seed(work.config.seed)
        with backend.autocast():
            return imagine_plainly(model, work.agent, work.starts, horizon, generator, way)

    return rollout


def our_imagination(work: NaivePhase, backend: Backend, kind: str, horizons: Sequence[int]) -> ImaginedRollout:
    """Imagination on the ring cache, of one of KINDS.

    A program has one horizon: those that will be asked for are made here, outside of any timing. It may be compiled.
    """
    seed, generator = work.config.seed, torch.Generator(work.device)
    if kind == "plain":

        def plain(horizon: int) -> Rollout:
            with backend.autocast():
                return imagine(work.world, work.agent, work.starts, horizon, generator.manual_seed(seed))

        return plain
    count, context = work.starts.latents.shape[:2]
    world, merges = copy.deepcopy(work.world).requires_grad_(False), {"program": False, "merged": True}[kind]
    programs = {
        horizon: Program(world, work.agent, count, context, horizon, backend, generator, merges) for horizon in horizons
    }

    def run(horizon: int) -> Rollout:
        generator.manual_seed(seed)
        return programs[horizon](work.starts)

    return run


def with_band(work: NaivePhase) -> NaivePhase:
    """The same work with time attention over half a window where it is a whole one, so that dreams may be longer."""
    dynamics = work.config.dynamics
    if dynamics.context < dynamics.window:
        return work
    config = replace(work.config, dynamics=replace(dynamics, context=dynamics.window // 2))
    world = WorldModel.build(config, work.world.sizes).to(work.device).eval()
    world.load_state_dict(work.world.state_dict())
    return replace(work, config=config, world=world)
