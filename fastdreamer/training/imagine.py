"""Phase 3: the policy improves in imagination; only policy and value train.

Source: Dreamer 4 (arXiv:2509.24527), section 3.3, Eq. 9-11.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fastdreamer.config import Config
from fastdreamer.data.feed import Feed
from fastdreamer.dynamics.world_model import WorldModel
from fastdreamer.heads.agent import Agent
from fastdreamer.heads.policy import Policy
from fastdreamer.imagination.pmpo import pmpo_loss
from fastdreamer.imagination.returns import lambda_returns, survival
from fastdreamer.imagination.rollout import imagine
from fastdreamer.training.loop import Phase
from fastdreamer.training.optim import RunningScale


class ImaginationPhase(Phase):
    """PMPO on imagined rollouts."""

    number = 3
    feed: Feed

    def __init__(
        self,
        config: Config,
        world: WorldModel,
        agent: Agent,
        prior: Policy,
        feed: Feed,
        device: torch.device,
    ) -> None:
        self.config, self.feed, self.device = config, feed, device
        self.world = world.eval().requires_grad_(False)
        self.agent = agent.eval().requires_grad_(False)
        for module in agent.policy.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0  # the loop's train() must not blur the policy that acts
        self.prior = prior.eval().requires_grad_(False)
        self.scale = RunningScale(["value"]).to(device)
        trained = {"policy": agent.policy.requires_grad_(True), "value": agent.value.requires_grad_(True)}
        self.model = nn.ModuleDict(trained | {"scale": self.scale})
        self.frozen = {"world": world, "agent": agent, "prior": prior}
        self.noise = torch.Generator().manual_seed(config.seed + 3)
        self.generators = {"data": feed, "noise": self.noise}
        self.gamma = config.imagination.gamma**config.tokenizer.frames_per_latent

    def loss(self, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """One imagined batch. The first `critic_steps` steps train the value head alone."""
        settings, agent = self.config.imagination, self.agent
        batch = self.feed.draw()
        rollout = imagine(self.world, agent, batch, settings.horizon, self.noise)
        states = rollout.features[:, :-1]
        weight = survival(rollout.continues)
        value_logits = agent.value(states)
        values = agent.value.decode(value_logits).detach()
        last = agent.returns_decoded(rollout.features[:, -1:]).detach()
        next_values = torch.cat([values[:, 1:], last], 1)
        returns = lambda_returns(rollout.rewards, rollout.continues, next_values, self.gamma, settings.lambda_)
        advantage = returns - values
        logits = agent.policy(states)
        log_prob = agent.policy.log_prob(logits, rollout.actions).sum((-2, -1))
        with torch.no_grad():
            prior_logits = self.prior(states)
        kl = agent.policy.kl(logits, prior_logits)
        terms = pmpo_loss(log_prob, advantage, kl, weight, settings.alpha, settings.beta)
        losses = {"policy": terms["policy"], "value": agent.value.loss(value_logits, returns, weight)}
        figures = {
            "loss/policy": terms["policy"],
            "loss/value": losses["value"],
            "kl_prior": terms["prior"],
            "entropy": agent.policy.entropy(logits).mean(),
            "imagined_reward": rollout.rewards.mean(),
            "imagined_return": returns[:, 0].mean(),
            "value_mean": values.mean(),
            "advantage_std": advantage.std(),
            "advantage_positive": (advantage >= 0).float().mean(),
            "alive": weight[:, -1].mean(),
        }
        figures = {name: value.detach() for name, value in figures.items()}
        if step < settings.critic_steps:
            losses["policy"] = losses["policy"] * 0.0
        return losses["policy"] + self.scale({"value": losses["value"]}), figures
