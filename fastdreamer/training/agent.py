"""Phase 2: behaviour cloning, reward, continuation and value; tokenizer and dynamics are frozen.

Source: Dreamer 4 (arXiv:2509.24527), section 3.3; the value head is fitted here to the data's lambda-returns, so that
phase 3 does not open on an untrained critic.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastdreamer.config import Config
from fastdreamer.data.clips import Batch
from fastdreamer.data.feed import Feed
from fastdreamer.data.resident import ResidentSteps
from fastdreamer.dynamics.world_model import WorldModel
from fastdreamer.heads.agent import Agent
from fastdreamer.heads.policy import cloning_loss
from fastdreamer.heads.reward import continuation_loss
from fastdreamer.imagination.returns import lambda_returns
from fastdreamer.training.loop import Phase
from fastdreamer.training.optim import RunningScale

TERMS = ("policy", "reward", "continue", "value")


class AgentPhase(Phase):
    """Heads on real latents. Where no reward is known the policy alone trains."""

    number = 2
    feed: Feed

    def __init__(
        self,
        config: Config,
        world: WorldModel,
        agent: Agent,
        feed: Feed,
        held_out: Batch | None,
        device: torch.device,
    ) -> None:
        self.config, self.world, self.agent, self.device = config, world.eval().requires_grad_(False), agent, device
        self.feed = feed
        table = feed.sampler.table
        self.terms = TERMS if table.fields["reward_valid"].any() else TERMS[:1]
        self.scale = RunningScale(self.terms).to(device)
        self.model = nn.ModuleDict({"agent": agent, "scale": self.scale})
        self.frozen = {"world": world}
        self.noise = torch.Generator().manual_seed(config.seed + 2)
        self.generators = {"data": feed, "noise": self.noise}
        self.gamma = config.imagination.gamma**config.tokenizer.frames_per_latent
        self.majority = majority_accuracy(table, world.sizes)
        self._check = held_out

    def loss(self, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """One batch."""
        batch = self.feed.draw()
        losses, figures = self._losses(batch, self._noise(batch))
        figures = {f"loss/{name}": value.detach() for name, value in losses.items()} | figures
        figures["majority_accuracy"] = torch.tensor(self.majority)
        if self._check is not None and (step + 1) % self.config.phase2.log_every == 0:
            figures |= self._watch(self._check)
        return self.scale(losses), figures

    def _noise(self, batch: Batch) -> Tensor:
        """Noise of the agent tokens' context; none is needed where the heads read latents."""
        if not self.agent.agent_tokens:
            return torch.empty(0)
        return torch.randn(batch.latents.shape, generator=self.noise).to(self.device)

    def _losses(self, batch: Batch, noise: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        agent, config = self.agent, self.config
        features = agent.sequence_features(self.world, batch, noise)
        logits = agent.policy(features)
        labelled = batch.next_valid & batch.labelled[:, None, None]
        arrived = batch.reward_valid.clone()
        if config.heads.reward_reads == "transition":
            arrived[:, 0] = False  # the step before the crop is not in it
        reward_logits = agent.reward(agent.reward_inputs(features))
        continue_logits = agent.continuation(features)
        value_logits = agent.value(features.detach())
        values = agent.value.decode(value_logits).detach()
        targets = data_returns(batch, values, self.gamma, config.imagination.lambda_)
        # The last step's return is unknown: weight 0, where cutting it off would copy the logits.
        targets, known = F.pad(targets, (0, 1)), F.pad(batch.reward_valid[:, 1:].float(), (0, 1))
        losses = {
            "policy": cloning_loss(agent.policy, logits, batch.next_actions, labelled, config.heads.focal_gamma),
            "reward": agent.reward.loss(reward_logits, batch.rewards, arrived.float()),
            "continue": continuation_loss(continue_logits, batch.continues, batch.reward_valid),
            "value": agent.value.loss(value_logits, targets, known),
        }
        figures = {
            "bc_accuracy": cloning_accuracy(agent, logits.detach(), batch.next_actions, labelled),
            "entropy": agent.policy.entropy(logits.detach()).mean(),
            "value_mean": values.mean(),
        }
        predicted = agent.reward.decode(reward_logits.detach())[arrived]
        if len(predicted) > 1:
            figures["reward_error"] = (predicted - batch.rewards[arrived]).abs().mean()
            figures["reward_std"] = predicted.std()
        return {name: losses[name] for name in self.terms}, figures

    @torch.no_grad()
    def _watch(self, batch: Batch) -> dict[str, Tensor]:
        """The same figures on held-out crops."""
        self.model.eval()
        losses, figures = self._losses(batch, torch.zeros_like(batch.latents))
        self.model.train()
        named = {f"held_out/loss/{k}": v for k, v in losses.items()}
        return named | {f"held_out/{k}": v for k, v in figures.items()}


def cloning_accuracy(agent: Agent, logits: Tensor, actions: Tensor, valid: Tensor) -> Tensor:
    """Share of right modes over valid positions, averaged over components."""
    right = agent.policy.act(logits, greedy=True) == actions
    return right[valid].float().mean()


def majority_accuracy(table: ResidentSteps, sizes: tuple[int, ...]) -> float:
    """Accuracy of always naming each component's most frequent choice: what `bc_accuracy` has to beat."""
    taken = table.fields["next_actions"][table.fields["next_valid"]]
    best = [float(torch.bincount(taken[:, i], minlength=size).max()) for i, size in enumerate(sizes)]
    return sum(best) / len(best) / max(1, len(taken))


def data_returns(batch: Batch, values: Tensor, gamma: float, lambda_: float) -> Tensor:
    """Lambda-returns (b, l-1) of recorded crops; past an episode's end a state's return is its own value."""
    known = batch.reward_valid[:, 1:]
    rewards = torch.where(known, batch.rewards[:, 1:], values[:, :-1])
    continues = torch.where(known, batch.continues[:, 1:], 0.0)
    return lambda_returns(rewards, continues, values[:, 1:], gamma, lambda_)
