"""What phases 1 and 3 minimise, without a thought for speed, and the optimiser's step.

Phase 1: half-steps of every row, built with autograd and then detached. Source: Dreamer 4 (arXiv:2509.24527), Eq. 4, 6,
7, 8, with the share of bootstrap sequences of `dynamics/forcing.py`.
Phase 3 written out: lambda-returns, PMPO with a closed-form prior, and the two-hot critic. Source: Dreamer 4, Eq. 10,
11; DreamerV3 (arXiv:2301.04104), Eq. 9-10, for two-hot losses, with interpolation in raw space as in
`fastdreamer_kernels`.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from bench.naive.model import NaiveWorldModel
from fastdreamer.config import ImaginationConfig, TrainConfig
from fastdreamer.dynamics.forcing import Levels
from fastdreamer.heads.agent import Agent
from fastdreamer.heads.policy import Policy
from fastdreamer.imagination.rollout import Rollout
from fastdreamer.latents.batch import Batch
from fastdreamer.training.optim import learning_rate


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


def batch_loss(model: NaiveWorldModel, batch: Batch, noise: Float[Tensor, "b l n z"], levels: Levels) -> Tensor:
    """The unscaled loss of a batch."""
    clean = model.normalise(batch.latents, batch.positions)
    action = model.embed_actions(batch.actions, batch.action_valid, batch.labelled)
    return forcing_loss(model, clean, noise, action, levels, batch.target_valid)


class Trainer:
    """AdamW a tensor at a time, clipping, and a moving average of every weight; `terms` are over their running size."""

    def __init__(self, model: nn.Module, config: TrainConfig, terms: tuple[str, ...]) -> None:
        self.model, self.config, self.number = model, config, 0
        parameters = [p for p in model.parameters() if p.requires_grad]
        groups: list[dict[str, Any]] = [
            {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": config.weight_decay},
            {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(
            groups, lr=config.learning_rate, betas=(0.9, 0.99), eps=1e-8, foreach=False, fused=False
        )
        self.scales = {name: RunningRms() for name in terms}
        self.average = {name: p.detach().clone() for name, p in model.named_parameters()}

    def update(self, losses: dict[str, Tensor]) -> Tensor:
        """Backward, clipping, AdamW and the average; returns the sum of the scaled terms."""
        self.optimizer.zero_grad()
        scaled = [losses[n] * self.scales[n].factor() if n in self.scales else losses[n] for n in losses]
        total = sum(scaled, torch.zeros((), device=scaled[0].device))
        total.backward()
        for name, scale in self.scales.items():
            scale.update(losses[name])
        clip_gradients(self.model, self.config.clip_norm)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.config, self.number)
        self.optimizer.step()
        decay = min(self.config.ema_decay, (1 + self.number) / (10 + self.number))
        with torch.no_grad():
            for name, parameter in self.model.named_parameters():
                self.average[name] = decay * self.average[name] + (1 - decay) * parameter
        self.number += 1
        return total.detach()


def two_hot_target(targets: Float[Tensor, "*b"], centres: Float[Tensor, " bins"]) -> Float[Tensor, "*b bins"]:
    """Probabilities on the two centres around each target, whose mean is the target; clipped to the range."""
    clipped = targets.float().clamp(centres[0], centres[-1])
    below = (torch.searchsorted(centres, clipped, right=True) - 1).clamp(0, len(centres) - 2)
    share = (clipped - centres[below]) / (centres[below + 1] - centres[below])
    target = torch.zeros(*targets.shape, len(centres), device=targets.device)
    target.scatter_(-1, below[..., None], (1 - share)[..., None])
    return target.scatter_(-1, below[..., None] + 1, share[..., None])


def two_hot_loss(
    logits: Float[Tensor, "*b cols"], targets: Float[Tensor, "*b"], centres: Float[Tensor, " bins"]
) -> Float[Tensor, "*b"]:
    """Cross-entropy of each row; columns past the bins are padding."""
    log_p = torch.log_softmax(logits[..., : len(centres)].float(), -1)
    return -(two_hot_target(targets, centres) * log_p).sum(-1)


def two_hot_decode(logits: Float[Tensor, "*b cols"], centres: Float[Tensor, " bins"]) -> Float[Tensor, "*b"]:
    """The expected scalar, in mirrored pairs: bins of +-5e8 would drown a plain sum in rounding."""
    p = torch.softmax(logits[..., : len(centres)].float(), -1)
    return 0.5 * ((p - p.flip(-1)) * centres).sum(-1)


def lambda_returns(
    rewards: Float[Tensor, "b h"],
    continues: Float[Tensor, "b h"],
    values: Float[Tensor, "b s"],
    gamma: float,
    lambda_: float,
) -> Float[Tensor, "b h"]:
    """Returns G_0 .. G_{H-1} from values v_0 .. v_H (s = H + 1) and what arrives with states 1 .. H."""
    future = values[:, -1]
    returns: list[Tensor] = []
    for k in reversed(range(rewards.shape[1])):
        mixed = (1 - lambda_) * values[:, k + 1] + lambda_ * future
        future = rewards[:, k] + gamma * continues[:, k] * mixed
        returns.insert(0, future)
    return torch.stack(returns, 1)


def log_prob(
    logits: Float[Tensor, "b h c a"], actions: Int[Tensor, "b h c k"], sizes: tuple[int, ...]
) -> Float[Tensor, "b h"]:
    """Log-probability of whole chunks."""
    total = torch.zeros(logits.shape[:2], device=logits.device)
    for component, part in enumerate(logits.split(sizes, -1)):
        logs = torch.log_softmax(part, -1)
        total = total + logs.gather(-1, actions[..., component : component + 1]).sum((-2, -1))
    return total


def kl(
    logits: Float[Tensor, "b h c a"], prior: Float[Tensor, "b h c a"], sizes: tuple[int, ...]
) -> Float[Tensor, "b h"]:
    """KL[pi || prior] of whole chunks, in closed form."""
    total = torch.zeros(logits.shape[:2], device=logits.device)
    for ours, others in zip(logits.split(sizes, -1), prior.split(sizes, -1), strict=True):
        p, q = torch.log_softmax(ours, -1), torch.log_softmax(others, -1)
        total = total + (torch.exp(p) * (p - q)).sum((-2, -1))
    return total


def weighted_mean(values: Tensor, weight: Tensor, members: Bool[Tensor, "b h"] | None = None) -> Tensor:
    """Mean over the members, 0 where there are none."""
    if members is not None:
        values, weight = values[members], weight[members]
    return (values * weight).sum() / weight.sum().clamp(min=1e-8)


def losses(
    rollout: Rollout, agent: Agent, prior: Policy, settings: ImaginationConfig, gamma: float
) -> tuple[Tensor, Tensor]:
    """(policy loss, value loss) of a rollout; `gamma` is a latent step's."""
    states = rollout.features[:, :-1]
    value_logits = agent.value(rollout.features)
    values = two_hot_decode(value_logits, agent.value.centres).detach()
    returns = lambda_returns(rollout.rewards, rollout.continues, values, gamma, settings.lambda_)
    advantage = returns - values[:, :-1]
    alive = torch.ones_like(rollout.continues)
    for k in range(1, alive.shape[1]):
        alive[:, k] = alive[:, k - 1] * rollout.continues[:, k - 1]

    logits = agent.policy(states)
    chunk = log_prob(logits, rollout.actions, agent.policy.sizes)
    with torch.no_grad():
        prior_logits = prior(states)
    better = weighted_mean(chunk, alive, advantage >= 0)
    worse = weighted_mean(chunk, alive, advantage < 0)
    apart = weighted_mean(kl(logits, prior_logits, agent.policy.sizes), alive)
    policy = (1 - settings.alpha) * worse - settings.alpha * better + settings.beta * apart
    value = weighted_mean(two_hot_loss(value_logits[:, :-1], returns, agent.value.centres), alive)
    return policy, value
