"""Phase 1 without a thought for speed: half-steps of every row, built with autograd and then detached.

Source: Dreamer 4 (arXiv:2509.24527), Eq. 4, 6, 7, 8, with the share of bootstrap sequences of `dynamics/forcing.py`.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from bench.naive.model import NaiveWorldModel
from fastdreamer.config import TrainConfig
from fastdreamer.dynamics.forcing import Levels
from fastdreamer.latents.batch import Batch


def forcing_loss(
    model: NaiveWorldModel,
    clean: Float[Tensor, "b l n z"],
    noise: Float[Tensor, "b l n z"],
    action: Float[Tensor, "b l d"],
    levels: Levels,
    valid: Bool[Tensor, "b l"],
) -> Tensor:
    """Shortcut forcing: bootstrap rows learn the mean velocity of two half-steps, the others the clean latents.

    Rows that are no bootstrap take half-steps too, which are thrown away; their indices are clamped to the grid.
    """
    finest = model.forcing.finest_steps
    tau = (levels.signal / finest)[..., None, None]
    noisy = (1 - tau) * noise + tau * clean
    half = (levels.step_size - 1).clamp(min=0)
    d = (2.0**half / finest)[..., None, None]
    first = (model(noisy, levels.signal, half, action)[0] - noisy) / (1 - tau)
    middle = noisy + first * d
    later = (levels.signal + 2**half).clamp(max=finest - 1)
    second = (model(middle, later, half, action)[0] - middle) / (1 - tau - d).clamp(min=1 / finest)
    boot = (noisy + (1 - tau) * (first + second) / 2).detach()
    target = torch.where(levels.is_boot[:, None, None, None], boot, clean)
    prediction = model(noisy, levels.signal, levels.step_size, action)[0]
    error = (prediction - target).pow(2).mean((-2, -1))
    weight = 0.9 * levels.signal / finest + 0.1
    return (error * weight * valid).sum() / valid.sum().clamp(min=1)


class RunningRms:
    """The running RMS of a loss in the steps before, its bias towards the start corrected (P 3.1)."""

    def __init__(self, decay: float = 0.99) -> None:
        self.decay, self.square, self.weight = decay, torch.zeros(()), 0.0

    def factor(self) -> Tensor | float:
        """1 / RMS; 1 before anything was seen."""
        return 1 / (self.square / self.weight).sqrt().clamp(min=1e-8) if self.weight else 1.0

    def update(self, loss: Tensor) -> None:
        """Takes in a step's unscaled loss."""
        self.square = self.decay * self.square.to(loss.device) + (1 - self.decay) * loss.detach() ** 2
        self.weight = self.decay * self.weight + (1 - self.decay)


def clip_gradients(model: nn.Module, limit: float) -> None:
    """Scales all gradients so that their joint norm is at most `limit`."""
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    norm = torch.sqrt(sum((g.pow(2).sum() for g in gradients), torch.zeros((), device=gradients[0].device)))
    for gradient in gradients:
        gradient.mul_((limit / (norm + 1e-6)).clamp(max=1.0))


class Trainer:
    """AdamW a tensor at a time, clipping, and an exponential moving average of every weight."""

    def __init__(self, model: NaiveWorldModel, config: TrainConfig) -> None:
        self.model, self.config = model, config
        matrices = [p for p in model.parameters() if p.ndim >= 2]
        vectors = [p for p in model.parameters() if p.ndim < 2]
        groups = [
            {"params": matrices, "weight_decay": config.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(
            groups, lr=config.learning_rate, betas=(0.9, 0.99), eps=1e-8, foreach=False, fused=False
        )
        self.scale = RunningRms()
        self.average = {name: p.detach().clone() for name, p in model.named_parameters()}

    def loss(self, batch: Batch, noise: Float[Tensor, "b l n z"], levels: Levels) -> Tensor:
        """The unscaled loss of a batch."""
        model = self.model
        clean = model.normalise(batch.latents, batch.positions)
        action = model.embed_actions(batch.actions, batch.action_valid, batch.labelled)
        return forcing_loss(model, clean, noise, action, levels, batch.target_valid)

    def update(self, loss: Tensor, rate: float, number: int) -> None:
        """Backward, clipping, AdamW at `rate`, and the average, after which step `number` (from 0) is done."""
        self.optimizer.zero_grad()
        (loss * self.scale.factor()).backward()
        self.scale.update(loss)
        clip_gradients(self.model, self.config.clip_norm)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        decay = min(self.config.ema_decay, (1 + number) / (10 + number))
        with torch.no_grad():
            for name, parameter in self.model.named_parameters():
                self.average[name] = decay * self.average[name] + (1 - decay) * parameter
