"""A phase without data or weights: made-up crops of the right shapes, and the same objects that train."""

from __future__ import annotations

from typing import Any

import torch

from fastdreamer.config import Config
from fastdreamer.device import Backend
from fastdreamer.dynamics.world_model import WorldModel
from fastdreamer.heads.agent import Agent
from fastdreamer.imagination.program import Program
from fastdreamer.latents.batch import Batch
from fastdreamer.latents.crop_sampler import CropSampler
from fastdreamer.latents.loader import Feed
from fastdreamer.latents.resident import ResidentSteps
from fastdreamer.recordings.actions import action_space
from fastdreamer.training.cloning_phase import AgentPhase
from fastdreamer.training.imagination_phase import ImaginationPhase
from fastdreamer.training.phase import Phase
from fastdreamer.training.phase_data import held_out_crops
from fastdreamer.training.world_model_phase import WorldModelPhase


class BlankSteps(ResidentSteps):
    """No steps, of which it is said that they have rewards."""

    def __init__(self) -> None:
        self.fields = {"reward_valid": torch.ones(1, dtype=torch.bool)}


class BlankSampler(CropSampler):
    """Holds the table that phase 2 asks."""

    def __init__(self) -> None:
        self.table = BlankSteps()


class BlankFeed(Feed):
    """Batches of zeros, each a long crop of the phase."""

    def __init__(self, config: Config, number: int) -> None:
        super().__init__(BlankSampler(), torch.device("cpu"))
        self.config = config
        self.crops: int = getattr(config, f"phase{number}").batch_size
        self.steps = config.imagination.start_context if number == 3 else config.dynamics.window
        self.number = 0

    @property
    def position(self) -> int:
        """Always the same batch: `number`."""
        return self.number

    def _next(self) -> Batch:
        return blank_batch(self.config, self.crops, self.steps)


def blank_batch(config: Config, crops: int, steps: int) -> Batch:
    """Crops in a configuration's shapes."""
    components = len(action_space(config.data.env).components)
    return Batch.blank(crops, steps, config.tokenizer.frames_per_latent, components)


def build_phase(config: Config, number: int, backend: Backend) -> Phase[Any]:
    """Phase 1, 2 or 3 as `train` builds it, on blank crops."""
    sizes = action_space(config.data.env).sizes
    feed, world = BlankFeed(config, number), WorldModel.build(config, sizes)
    if number == 1:
        phase = WorldModelPhase(config, world, feed, backend)
        rows, share = config.phase1.batch_size, phase.boots
        numbers = range(phase.first_boot, phase.first_boot + share.of)
        feed.number = max(numbers, key=lambda n: share.before((n + 1) * rows) - share.before(n * rows))
        return phase
    agent = Agent(config, sizes)
    if number == 2:
        held_out = blank_batch(config, held_out_crops(config), config.dynamics.window)
        return AgentPhase(config, world, agent, feed, held_out, backend)
    imagination = OneStep(config, world, agent, Agent(config, sizes).policy, feed, backend)
    imagination.proves = False
    return imagination


class OneStep(ImaginationPhase):
    """Rollouts that stop after their first step: the others would be like it."""

    def program(self, dreams: int) -> Program:
        """The buffers have room for all steps."""
        program = super().program(dreams)
        program.horizon = 1
        return program
