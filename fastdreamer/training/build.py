"""A phase, put together: its models, its batches, and the class that trains them. Nothing is changed afterwards."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from fastdreamer.config import Config
from fastdreamer.device import Backend
from fastdreamer.dynamics.world_model import WorldModel
from fastdreamer.heads.agent import Agent
from fastdreamer.latents.loader import Loader
from fastdreamer.latents.store import LatentStore
from fastdreamer.recordings.actions import action_space
from fastdreamer.run.checkpoint import Checkpoint
from fastdreamer.training.cloning_phase import AgentPhase
from fastdreamer.training.imagination_phase import ImaginationPhase
from fastdreamer.training.models import agent_from, prior_from, world_model_from
from fastdreamer.training.phase import Phase
from fastdreamer.training.phase_data import held_out_batch, training_loader
from fastdreamer.training.world_model_phase import WorldModelPhase, fit_linear_start

Kind = Callable[..., Phase[Any]]
KINDS: Mapping[int, Kind] = {1: WorldModelPhase, 2: AgentPhase, 3: ImaginationPhase}
"""What trains each phase. Another kind takes the same arguments: one of these with options, or a class on top of it."""


def build_phase(
    config: Config,
    number: int,
    data: LatentStore | Loader,
    parent: Checkpoint | None,
    backend: Backend,
    kind: Kind | None = None,
    models: Sequence[nn.Module] = (),
    is_fitted: bool = True,
) -> Phase[Any]:
    """Phase 1, 2 or 3, before its first step.

    Args:
        data: a store, or batches alone.
        parent: a checkpoint of the phase before, or of the phase itself, whose own weights are filled in later; without
            one all weights are random.
        kind: makes the phase, in place of the one in `KINDS`.
        models: models to use in place of those of `build_models`.
        is_fitted: off, a linear start is random too, which takes no pass through the store.
    """
    make, device = kind or KINDS[number], backend.device
    store, loader = (None, data) if isinstance(data, Loader) else (data, training_loader(config, number, data, device))
    sizes = (store.space if store is not None else action_space(config.data.env)).sizes
    models = models or build_models(config, number, sizes, parent, device)
    if device.type != "cpu":  # fake weights of a memory plan would not let themselves be moved
        models = [model.to(device) for model in models]
    if store is None:
        return make(config, *models, loader, backend)
    world = models[0]
    assert isinstance(world, WorldModel)
    if number == 1 or parent is None:
        world.set_statistics(*store.statistics())
    if world.linear is not None and number == 1 and parent is None and is_fitted:
        fit_linear_start(world, store.split("train"))
    if number != 2:
        return make(config, *models, loader, backend)
    held_out = held_out_batch(config, store)
    return make(config, *models, loader, backend, held_out.to(device) if held_out is not None else None)


def build_models(
    config: Config, number: int, sizes: tuple[int, ...], parent: Checkpoint | None, device: torch.device
) -> Sequence[nn.Module]:
    """The models of a phase: a world model; from phase 2 on an agent; in phase 3 the policy that it stays close to.

    Those of earlier phases come from `parent`, and the agent of phase 3 too; without one all weights are random.
    `sizes` are the action components'.
    """
    recomputes = config.phase(number).recompute
    if number == 1 or parent is None:
        world = WorldModel.build(config, sizes, recomputes)
    else:
        world = world_model_from(parent, config, device, recomputes)
    if number == 1:
        return (world,)
    agent = Agent(config, sizes) if number == 2 or parent is None else agent_from(parent, config, device)
    if number == 2:
        return world, agent
    prior = prior_from(parent, config, device) if parent is not None else Agent(config, sizes).policy
    return world, agent, prior
