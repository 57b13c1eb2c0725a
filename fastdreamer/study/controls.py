"""Phase 3 with one thing put wrong on purpose: whoever still gains did not gain by what imagination says.

Each is `ImaginationPhase` but for that one thing: the same starts, objective and number of updates.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch
from torch import nn

from fastdreamer.config import Config
from fastdreamer.device import Backend
from fastdreamer.dynamics.world_model import WorldModel
from fastdreamer.heads.agent import Agent
from fastdreamer.heads.policy import Policy
from fastdreamer.imagination.rollout import Rollout
from fastdreamer.latents.batch import Batch
from fastdreamer.latents.loader import Loader
from fastdreamer.training.imagination_phase import ImaginationPhase


class ShuffledRewards(ImaginationPhase):
    """Imagined rewards change places over all dreams and times: the same rewards, but they say nothing.

    The critic starts from zero: phase 2's knows what real states are worth, and would say it in the rewards' place.
    """

    def __init__(
        self, config: Config, world: WorldModel, agent: Agent, prior: Policy, loader: Loader, backend: Backend
    ) -> None:
        nn.init.zeros_(agent.value.net.out.weight)
        nn.init.zeros_(agent.value.net.out.bias)
        super().__init__(config, world, agent, prior, loader, backend)
        self.order = torch.Generator(backend.device).manual_seed(config.seed + 5)
        self.generators = {**self.generators, "order": self.order}

    def imagine(self, batch: Batch) -> Rollout:
        """A rollout with its rewards shuffled."""
        rollout = super().imagine(batch)
        rewards = rollout.rewards.flatten()
        order = torch.randperm(len(rewards), generator=self.order, device=rewards.device)
        return replace(rollout, rewards=rewards[order].view_as(rollout.rewards))


ShuffledActions = partial(ImaginationPhase, shuffles=True)
"""The world model is given the action of another dream at every step, so that nothing follows from one's own."""
