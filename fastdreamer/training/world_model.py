"""Phase 1: the dynamics model learns to predict latents, by shortcut forcing."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fastdreamer.config import Config
from fastdreamer.data.feed import Feed
from fastdreamer.dynamics.forcing import draw_levels, forcing_loss
from fastdreamer.dynamics.world_model import WorldModel
from fastdreamer.training.loop import Phase
from fastdreamer.training.optim import RunningScale


class WorldModelPhase(Phase):
    """Shortcut forcing on crops of `dynamics.window` steps, or fewer (see SamplingConfig)."""

    number = 1
    feed: Feed

    def __init__(self, config: Config, world: WorldModel, feed: Feed, device: torch.device) -> None:
        self.config, self.world, self.feed, self.device = config, world, feed, device
        self.scale = RunningScale(["dynamics"]).to(device)
        self.model = nn.ModuleDict({"world": world, "scale": self.scale})
        self.frozen = {}
        self.noise = torch.Generator().manual_seed(config.seed + 1)
        self.generators = {"data": feed, "noise": self.noise}
        self.first_boot_step = round(config.forcing.boot_warmup * config.phase1.steps)

    def loss(self, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """One batch."""
        forcing = self.config.forcing
        batch = self.feed.draw()
        clean = self.world.normalise(batch.latents, batch.positions)
        boot = forcing.boot_fraction if step >= self.first_boot_step else 0.0
        levels = draw_levels(len(clean), clean.shape[1], forcing, boot, self.noise).to(self.device)
        noise = torch.randn(clean.shape, generator=self.noise).to(self.device)
        action = self.world.embed_actions(batch.actions, batch.action_valid, batch.labelled)

        def predict(noisy: Tensor, signal: Tensor, step_size: Tensor, rows: Tensor) -> Tensor:
            out: Tensor = self.world(noisy, signal, step_size, action[rows])
            return out

        losses = forcing_loss(predict, clean, noise, levels, forcing.finest_steps, batch.target_valid)
        figures = {f"loss/{name}": value.detach() for name, value in losses.items()}
        if not boot:
            del figures["loss/boot"]
        figures["data/steps"] = torch.tensor(float(clean.shape[1]))  # losses of short and long crops differ
        return self.scale(losses), figures
