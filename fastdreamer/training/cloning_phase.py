"""Phase 2: behaviour cloning, reward, continuation and value; tokenizer and dynamics are frozen.

Source: Dreamer 4 (arXiv:2509.24527), section 3.3; the value head is fitted here to the data's lambda-returns, so that
phase 3 does not open on an untrained critic.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from fastdreamer.config import Config
from fastdreamer.device import Backend
from fastdreamer.dynamics.world_model import WorldModel
from fastdreamer.heads.agent import Agent
from fastdreamer.heads.policy import cloning_loss
from fastdreamer.heads.reward import continuation_loss, shares_of
from fastdreamer.imagination.returns import lambda_returns
from fastdreamer.latents.batch import Batch
from fastdreamer.latents.loader import Loader
from fastdreamer.latents.resident import ResidentSteps
from fastdreamer.training.optim import RunningScale
from fastdreamer.training.phase import Phase, PhaseBatch

TERMS = ("policy", "reward", "continue", "value")


@dataclass(frozen=True)
class CloningBatch(PhaseBatch):
    """A batch of real crops, and what each of its states counts for; shares of a term sum to 1 over the whole batch."""

    batch: Batch
    noise: Tensor  # noise of the agent tokens' context or of the heads' inputs (b, l, n, z); else one empty row a crop
    labelled: Bool[Tensor, "b l c"]
    policy: Float[Tensor, "b l"]
    chosen: Float[Tensor, "b l c"]
    reward: Float[Tensor, "b l"]
    continuation: Float[Tensor, "b l"]
    value: Float[Tensor, "b l"]
    states: Float[Tensor, "b l"]


class AgentPhase(Phase[CloningBatch]):
    """Heads on real latents. Where no reward is known the policy alone trains.

    Attributes:
        at_once: how many held-out crops go through at a time.
    """

    number = 2
    loader: Loader
    scale: RunningScale

    def __init__(
        self,
        config: Config,
        world: WorldModel,
        agent: Agent,
        loader: Loader,
        backend: Backend,
        held_out: Batch | None = None,
    ) -> None:
        self.config, self.agent, self.device = config, agent, backend.device
        self.world = world.eval().requires_grad_(False)
        self.loader = loader
        table = loader.sampler.table
        self.terms = TERMS if table.fields["reward_valid"].any() else TERMS[:1]
        self.scale = RunningScale(self.terms).to(backend.device)
        self.model = nn.ModuleDict({"agent": agent, "scale": self.scale})
        self.frozen = {"world": world}
        self.noise = torch.Generator(backend.device).manual_seed(config.seed + 2)
        self.generators = {"data": loader, "noise": self.noise}
        self.gamma = config.imagination.gamma**config.tokenizer.frames_per_latent
        self.patience = config.phase2.patience
        self.at_once = config.phase2.micro_batch or config.phase2.batch_size
        self._check = self.work(held_out) if held_out is not None else None
        self._losses = backend.compiled(self.losses)

    def draw(self) -> CloningBatch:
        """Crops, and noise where agent tokens read a noised context."""
        return self.work(self.loader.draw(), self.noise)

    def loss(self, work: CloningBatch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """The terms that train, each over its running size."""
        factors = self.scale.factors()
        total, figures = self._losses(work, [factors[name] for name in self.terms])
        return total, figures

    def figures(self, sums: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        """Spreads from their moments, and the same figures on held-out crops."""
        figures = _finished(sums) | {"majority_accuracy": torch.tensor(self.majority)}
        if "reward_std" in figures:
            figures["recorded_reward_std"] = torch.tensor(self.recorded_spread)
        return figures | {f"held_out/{name}": value for name, value in self.check().items()}

    @cached_property
    def majority(self) -> float:
        """Accuracy of the majority, which `bc_accuracy` has to beat."""
        return majority_accuracy(self.loader.sampler.table, self.world.sizes)

    @cached_property
    def recorded_spread(self) -> float:
        """Standard deviation of the recorded rewards a latent step, beside which `reward_std` is read."""
        fields = self.loader.sampler.table.fields
        return float(fields["rewards"][fields["reward_valid"]].std(correction=0))

    @torch.no_grad()
    def check(self, micro_batches: slice = slice(None)) -> dict[str, Tensor]:
        """The figures on held-out crops, `at_once` of them at a time; nothing where there are none.

        `micro_batches` are those that are summed, all of them but for a memory plan, to which they are alike.
        """
        if self._check is None:
            return {}
        self.model.eval()
        ones = [torch.ones((), device=self.device)] * len(self.terms)
        sums: dict[str, Tensor] = {}
        for piece in self._check.split(-(-len(self._check.labelled) // self.at_once))[micro_batches]:
            for name, value in self.losses(piece, ones)[1].items():
                sums[name] = sums[name] + value if name in sums else value
        self.model.train()
        return _finished(sums)

    def held_out_loss(self) -> float | None:
        """The sum of the logarithms of the held-out losses, so that a tenth less of any counts alike.

        But for the continuation's: where episodes hardly end it is next to nothing, and noise.
        """
        figures = self.check()
        judged = [name for name in self.terms if name != "continue"]
        return sum(math.log(max(float(figures[f"loss/{name}"]), 1e-12)) for name in judged) if figures else None

    def shrink(self, micro_batches: int) -> None:
        """Take fewer held-out crops at once."""
        self.at_once = -(-self.config.phase2.batch_size // micro_batches)

    def work(self, batch: Batch, generator: torch.Generator | None = None) -> CloningBatch:
        """A batch with its shares; without a generator the noise is zero."""
        labelled = batch.next_valid & batch.labelled[:, None, None]
        arrived = batch.reward_valid.float()
        if self.agent.reward_needs_past:
            arrived[:, 0] = 0.0  # the step before the crop is not in it
        # The last step's return is unknown: weight 0, where cutting it off would copy the logits.
        # The value is that of the play that is cloned.
        known = F.pad(batch.reward_valid[:, 1:].float(), (0, 1)) * labelled.any(-1)
        has_noise = self.agent.agent_tokens or self.config.heads.input_noise > 0
        noise = batch.latents.new_zeros(batch.latents.shape if has_noise else (len(labelled), 0))
        if generator is not None:
            noise.normal_(generator=generator)
        return CloningBatch(
            batch=batch,
            noise=noise,
            labelled=labelled,
            policy=shares_of(labelled.any(-1).float()),
            chosen=shares_of(labelled.float()),
            reward=shares_of(arrived),
            continuation=shares_of(batch.reward_valid.float()),
            value=shares_of(known),
            states=shares_of(torch.ones_like(arrived)),
        )

    def losses(self, work: CloningBatch, factors: list[Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The sum of the terms, each times its factor, and the figures of a micro-batch."""
        agent, config, batch = self.agent, self.config, work.batch
        factor = dict(zip(self.terms, factors, strict=True))
        features = agent.sequence_features(self.world, batch, work.noise)
        logits = agent.policy(features)
        cloning = cloning_loss(
            agent.policy, logits, batch.next_actions, work.labelled, work.policy, config.heads.focal_gamma
        )
        scaled = {"policy": cloning * factor["policy"]}
        right = agent.policy.choose(logits.detach()) == batch.next_actions
        figures = {
            "bc_accuracy": (right.float().mean(-1) * work.chosen).sum(),
            "entropy": (agent.policy.entropy(logits.detach()) * work.states).sum(),
        }
        if "value" in self.terms:
            reward_logits = agent.batch_logits(features, batch)
            value_logits = agent.value(features.detach())
            values = agent.value.decode(value_logits).detach()
            targets = F.pad(data_returns(batch, values, self.gamma, config.imagination.lambda_), (0, 1))
            continuing = continuation_loss(agent.continuation(features), batch.continues, work.continuation)
            scaled |= {
                "reward": agent.reward.loss(reward_logits, batch.rewards, work.reward * factor["reward"]),
                "continue": continuing * factor["continue"],
                "value": agent.value.loss(value_logits, targets, work.value * factor["value"]),
            }
            predicted = agent.reward.decode(reward_logits.detach())
            figures |= {
                "value_mean": (values * work.states).sum(),
                "reward_error": ((predicted - batch.rewards).abs() * work.reward).sum(),
                "reward_mean": (predicted * work.reward).sum(),
                "reward_square": (predicted.square() * work.reward).sum(),
            }
        figures |= {f"loss/{name}": value.detach() / factor[name] for name, value in scaled.items()}
        return torch.stack([scaled[name] for name in self.terms]).sum(), figures


def _finished(sums: dict[str, Tensor]) -> dict[str, Tensor]:
    """The spread of the predicted rewards in place of their moments."""
    figures = dict(sums)
    if "reward_square" in figures:
        mean, square = figures.pop("reward_mean"), figures.pop("reward_square")
        figures["reward_std"] = (square - mean.square()).clamp(min=0).sqrt()
    return figures


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
