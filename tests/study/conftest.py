"""A phase 3 of each kind on dreams of a tiny world model."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from imagination.worlds import Imagined, rollouts

from fastdreamer.device import Backend
from fastdreamer.latents.batch import Batch
from fastdreamer.latents.loader import Loader
from fastdreamer.training.imagination_phase import ImaginationPhase

BACKEND = Backend(torch.device("cpu"), "fp32")


class SameStarts(Loader):
    """A loader of one batch."""

    def __init__(self, batch: Batch) -> None:
        self.batch, self._position = batch, 0

    def draw(self) -> Batch:
        return self.batch


@pytest.fixture
def phase_of() -> Callable[..., tuple[Any, Imagined]]:
    """Builds a phase 3 by its maker."""

    def make(maker: Callable[..., ImaginationPhase], *overrides: str, count: int = 4) -> tuple[Any, Imagined]:
        cheap = ("imagination.merge_commit=off", "dynamics.layers=2", f"phase3.batch_size={count}")
        world = rollouts(*cheap, *overrides, count=count)
        prior = copy.deepcopy(world.agent.policy)
        return maker(world.config, world.world, world.agent, prior, SameStarts(world.batch), BACKEND), world

    return make
