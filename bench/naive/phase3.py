"""The losses of phase 3 written out: lambda-returns, PMPO with a closed-form prior, and the two-hot critic.

Source: Dreamer 4 (arXiv:2509.24527), Eq. 10 and 11; DreamerV3 (arXiv:2301.04104), Eq. 9-10, for two-hot losses, with
interpolation in raw space as in `fastdreamer_kernels`.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from fastdreamer.config import ImaginationConfig
from fastdreamer.heads.agent import Agent
from fastdreamer.heads.policy import Policy
from fastdreamer.imagination.rollout import Rollout


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
