"""Phases on made-up episodes with random weights, and their optimisation step; torch alone is enough."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from fastdreamer.config import Config, SamplingConfig
from fastdreamer.device import Backend
from fastdreamer.dynamics.world_model import WorldModel
from fastdreamer.heads.agent import Agent
from fastdreamer.latents.batch import Batch
from fastdreamer.latents.crop_sampler import CropSampler
from fastdreamer.latents.episode import Episode
from fastdreamer.latents.loader import Loader
from fastdreamer.latents.synthetic import made_up_episode
from fastdreamer.recordings.actions import action_space
from fastdreamer.shapes import CHANNELS, TOKENS
from fastdreamer.training.build import Kind, build_phase
from fastdreamer.training.phase import Phase
from fastdreamer.training.step import Update
from fastdreamer.training.world_model_phase import WorldModelPhase

EPISODES, WINDOWS = 4, 4  # episodes, and windows that each is long


def made_up(config: Config, episodes: int = EPISODES, length: int = 0) -> list[Episode]:
    """Episodes of noise, `length` latent steps long or WINDOWS windows; every fifth transition is rewarded, all end."""
    generator = torch.Generator().manual_seed(config.seed)
    sizes, steps = action_space(config.data.env).sizes, length or WINDOWS * config.dynamics.window
    frames = 1 + (steps - 1) * config.tokenizer.frames_per_latent
    found = []
    for _ in range(episodes):
        latents = torch.randn(steps, TOKENS, CHANNELS, generator=generator)
        actions = torch.stack([torch.randint(s, (frames - 1,), generator=generator) for s in sizes], 1)
        found.append(made_up_episode("made up", "train", latents, actions, ends=True))
    return found


def loader_of(config: Config, number: int, device: torch.device) -> Loader:
    """Batches of a phase from episodes that lie where it trains."""
    steps = config.imagination.start_context if number == 3 else config.dynamics.window
    count = config.phase(number).batch_size
    sampling = config.sampling if number == 1 else SamplingConfig()
    clock, discount = config.tokenizer.clock, config.imagination.gamma
    sampler = CropSampler(made_up(config), clock, steps, count, config.seed, discount, sampling, device)
    return Loader(sampler, device)


class OneBatch(Loader):
    """A loader that gives its first batch for ever. Its position stays, and to ask for it costs nothing."""

    def __init__(self, loader: Loader) -> None:
        super().__init__(loader.sampler, loader.device)
        self._state, self._batch = super().get_state(), loader.draw()

    def draw(self) -> Batch:
        """Return the one batch."""
        return self._batch

    def get_state(self) -> Tensor:
        """Return a state that is always the same."""
        return self._state


def models(config: Config, device: torch.device, number: int = 1) -> tuple[WorldModel, Agent]:
    """Random weights for a phase. Layers that start at zero are filled, or they would hide everything before them."""
    torch.manual_seed(config.seed)
    sizes = action_space(config.data.env).sizes
    world = WorldModel.build(config, sizes, config.phase(number).recompute)
    agent = Agent(config, sizes)
    for layer in (world.readout, *(head.net.out for head in (agent.policy, agent.reward, agent.value))):
        nn.init.normal_(layer.weight, std=layer.in_features**-0.5)
    agent.continuation.net.out.bias.data.fill_(4.0)  # dreams that go on, as a trained head would have them
    return world.to(device), agent.to(device)


def made_up_phase(
    config: Config, number: int, backend: Backend, loader: Loader | None = None, kind: Kind | None = None
) -> Phase[Any]:
    """Phase 1, 2 or 3, ready to train; phase 1 has its bootstrap rows from the first batch on."""
    world, agent = models(config, backend.device, number)
    own = (world, agent, copy.deepcopy(agent.policy))[:number]
    kind = kind or {1: partial(WorldModelPhase, first_boot=0)}.get(number)
    loader = loader or loader_of(config, number, backend.device)
    phase = build_phase(config, number, loader, None, backend, kind, own)
    phase.model.train()
    return phase


class Optimisation(Update):
    """The updates of the training loop, numbered here, without logging, saving and stopping.

    Attributes:
        number: the number of the next step, from 0.
    """

    number = 0

    def step(self) -> dict[str, Tensor]:
        """The next update; returns its batch's figures."""
        figures, _ = self(self.number)
        self.number += 1
        return figures
