"""Phase 3: the policy improves in imagination; only policy and value train.

Source: Dreamer 4 (arXiv:2509.24527), section 3.3, Eq. 9-11.
"""

from __future__ import annotations

import gc
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from fastdreamer.config import Config
from fastdreamer.device import Backend
from fastdreamer.dynamics.world_model import WorldModel
from fastdreamer.heads.agent import Agent
from fastdreamer.heads.policy import Policy
from fastdreamer.imagination.pmpo import Shares, pmpo_loss, pmpo_shares
from fastdreamer.imagination.program import Program, build_program
from fastdreamer.imagination.returns import rollout_returns, survival
from fastdreamer.imagination.rollout import Rollout, draw_noise, joined
from fastdreamer.latents.batch import Batch
from fastdreamer.latents.loader import Loader
from fastdreamer.system.ranges import span
from fastdreamer.training.optim import RunningScale
from fastdreamer.training.phase import Phase, PhaseBatch, bounds, rows_of

DECAY = 0.8
"""The decay of the running moments of the advantages: they span the last five batches or so."""


class Calibration(nn.Module):
    """Whether the critic fits: opens once the advantages have no common bias, and stays open.

    Where a critic judges another policy than the one that plays, most advantages have one sign, and PMPO's two sets say
    how good the old policy was, not which action is. The moments live on the device; asking waits for nothing.
    """

    mean: Tensor
    square: Tensor
    weight: Tensor
    opened: Tensor

    def __init__(self, bias: float) -> None:
        super().__init__()
        self.bias = bias
        for name in ("mean", "square", "weight"):
            self.register_buffer(name, torch.zeros(()))
        self.register_buffer("opened", torch.tensor(float(bias == 0)))

    @property
    def share(self) -> Tensor:
        """The running mean of the advantages over their RMS, without sign."""
        return (self.mean / self.weight.clamp(min=1e-12)).abs() / (
            (self.square / self.weight.clamp(min=1e-12)).sqrt().clamp(min=1e-8)
        )

    @torch.no_grad()
    def see(self, advantage: Float[Tensor, "b h"], skipped: Tensor | None = None) -> None:
        """Takes a batch's advantages in, if all are numbers; nothing where `skipped` (bool) is true, without asking."""
        rate = torch.full_like(self.weight, 1 - DECAY)
        rate = rate * advantage.isfinite().all()  # what is no number would count as a bias of 0
        if skipped is not None:
            rate = rate * ~skipped
        self.mean.lerp_(advantage.mean().nan_to_num(), rate)
        self.square.lerp_(advantage.square().mean().nan_to_num(), rate)
        self.weight.lerp_(torch.ones_like(self.weight), rate)
        fits = (self.share <= self.bias) & (self.weight > 0)
        self.opened.copy_(torch.maximum(self.opened, fits.float()))


class SlowCopy(nn.Module):
    """A module's running average, which changes by `follow` alone.

    Source: DreamerV3 (arXiv:2301.04104), section "Critic learning".
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        super().__init__()
        self.decay = decay
        self.module = deepcopy(module).requires_grad_(False)

    @torch.no_grad()
    def follow(self, module: nn.Module) -> None:
        """Moves the copy towards the module."""
        own: list[Tensor] = list(self.module.parameters())
        theirs: list[Tensor] = list(module.parameters())
        torch._foreach_lerp_(own, theirs, 1 - self.decay)


NO_REWARD = 1e-3  # a reward of less counts as none: the head's bins cancel to about 1e-6, a reward is 1 or so


@dataclass(frozen=True)
class RolloutBatch(PhaseBatch):
    """Imagined states with what was done and what it led to; shares sum to 1 over the whole batch."""

    states: Float[Tensor, "b h f"]
    actions: Int[Tensor, "b h c k"]
    returns: Float[Tensor, "b h"]
    pmpo: Shares
    present: Float[Tensor, "b h"]


@dataclass(frozen=True)
class ImaginedFigures:
    """What a batch's rollouts came to, kept until it is logged."""

    rewards: Float[Tensor, "b h"]
    returns: Float[Tensor, "b h"]
    values: Float[Tensor, "b h"]
    weight: Float[Tensor, "b h"]

    def figures(self) -> dict[str, Tensor]:
        """Rewards, returns and values a latent step; the sizes of PMPO's two sets in steps."""
        advantage = self.returns - self.values
        positive = (advantage >= 0).float()
        return {
            "imagined_reward": self.rewards.mean(),
            "imagined_reward_std": self.rewards.std(),
            "imagined_reward_share": (self.rewards.abs() > NO_REWARD).float().mean(),
            "imagined_return": self.returns[:, 0].mean(),
            "value_mean": self.values.mean(),
            "advantage_mean": advantage.mean(),
            "advantage_std": advantage.std(),
            "advantage_positive": positive.mean(),
            "positive": positive.sum(),
            "negative": (1 - positive).sum(),
            "alive": self.weight[:, -1].mean(),
        }


class ImaginationPhase(Phase[RolloutBatch]):
    """Trains policy and value by PMPO on imagined rollouts.

    Attributes:
        rollouts_at_once: how many sequences one rollout holds; a batch takes as many rollouts as it needs.
        proves, shuffles, steps: see `build_program`.
    """

    number = 3
    draws_own_rows = True
    loader: Loader
    scale: RunningScale

    def __init__(
        self,
        config: Config,
        world: WorldModel,
        agent: Agent,
        prior: Policy,
        loader: Loader,
        backend: Backend,
        *,
        proves: bool = True,
        shuffles: bool = False,
        steps: int | None = None,
    ) -> None:
        self.config, self.loader, self.backend = config, loader, backend
        self.world = world.eval().requires_grad_(False)
        self.agent = agent.eval().requires_grad_(False)
        for module in agent.policy.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0  # the loop's train() must not blur the policy that acts
        self.prior = prior.eval().requires_grad_(False)
        self.scale = RunningScale(["value"]).to(backend.device)
        trained = {"policy": agent.policy.requires_grad_(True), "value": agent.value.requires_grad_(True)}
        settings = config.imagination
        self.calibration = Calibration(settings.critic_bias)
        self.target = SlowCopy(agent.value, settings.target_decay) if settings.target_decay else None
        kept = {"scale": self.scale, "calibration": self.calibration.to(backend.device)}
        kept |= {"target": self.target} if self.target is not None else {}
        self.model = nn.ModuleDict(trained | kept)
        self.rates = {"value.": settings.value_rate}
        self.frozen = {"world": world, "agent": agent, "prior": prior}
        self.noise = torch.Generator(backend.device).manual_seed(config.seed + 3)
        self.generators = {"data": loader, "noise": self.noise}
        self.gamma = config.imagination.gamma**config.tokenizer.frames_per_latent
        self.rollouts_at_once = config.phase3.micro_batch or config.phase3.batch_size
        self.proves, self.shuffles, self.steps = proves, shuffles, steps
        self._programs: dict[int, Program] = {}
        self._losses = backend.compiled(self.losses)
        self._imagined: ImaginedFigures | None = None
        self._advantages: list[Tensor] = []  # of batches that are drawn and not finished

    @torch.no_grad()
    def draw(self) -> RolloutBatch:
        """Rollouts from real crops, their returns and advantages; of several ranks each dreams its own rows."""
        settings, agent, ranks = self.config.imagination, self.agent, self.backend.ranks
        batch = self.loader.draw()
        with ranks.together():
            rollout = self.imagine(batch)
            weight = survival(rollout.continues)
            with span("heads"), self.backend.autocast():
                values = agent.returns_decoded(rollout.features)
                slow = values if self.target is None else agent.value.decode(self.target.module(rollout.features))
            returns = rollout_returns(rollout, slow, self.gamma, settings.lambda_)
        whole = ImaginedFigures(*ranks.gather(rollout.rewards, returns, values[:, :-1], weight))
        advantage = whole.returns - whole.values
        self._advantages.append(advantage)
        self._imagined = whole
        first, last = ranks.rows(len(advantage))
        return RolloutBatch(
            states=rollout.features[:, :-1],
            actions=rollout.actions,
            returns=returns,
            pmpo=rows_of(pmpo_shares(advantage, whole.weight), first, last, len(advantage)),
            present=torch.full_like(weight, 1 / whole.weight.numel()),
        )

    def imagine(self, batch: Batch) -> Rollout:
        """One rollout of all starts, or this rank's, `rollouts_at_once` at a time; the dreams do not depend on that."""
        count, context = batch.latents.shape[:2]
        first, last = self.backend.ranks.rows(count)
        micro_batches = bounds(last - first, -(-(last - first) // self.rollouts_at_once))
        if len(micro_batches) == 1 and last - first == count:
            return self.program(count)(batch)
        noise = draw_noise(self.world, count, context, self.config.imagination.horizon, self.noise)
        places = [(first + a, first + z) for a, z in micro_batches]
        return joined([self.program(z - a)(rows_of(batch, a, z, count), noise.rows(a, z)) for a, z in places])

    def loss(self, work: RolloutBatch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """PMPO and the value loss. The first `critic_steps` steps train the value head alone."""
        losses, figures = self._losses(work, self.scale.factors()["value"])
        settings = self.config.imagination
        if step < settings.critic_steps:
            losses["policy"] = losses["policy"] * 0.0
        elif settings.critic_bias and step < self.config.phase3.steps // 2:
            losses["policy"] = losses["policy"] * self.calibration.opened
        return losses["policy"] + losses["value"], figures

    def finish(self, sums: Mapping[str, Tensor], skipped: Tensor | None = None) -> None:
        """The slow value head follows the value head; the calibration takes the batch's advantages in."""
        super().finish(sums, skipped)
        if self._advantages:  # none where the batch was not drawn here
            self.calibration.see(self._advantages.pop(0), skipped)
        if self.target is not None:
            self.target.follow(self.agent.value)

    def figures(self, sums: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        """Figures of the loss, of the rollout, and of the critic: its bias, and whether the policy may move."""
        critic = {"critic_bias": self.calibration.share, "calibrated": self.calibration.opened}
        return sums | critic | (self._imagined.figures() if self._imagined is not None else {})

    def shrink(self, micro_batches: int) -> None:
        """Take fewer dreams a rollout."""
        self.rollouts_at_once = -(-self.config.phase3.batch_size // micro_batches)
        self._programs.clear()
        self._advantages.clear()
        gc.collect()  # a program holds its own methods, so nothing else frees it and its graph

    @property
    def programs(self) -> Sequence[Program]:
        """The programs that were built so far."""
        return list(self._programs.values())

    def losses(self, work: RolloutBatch, factor: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The heads once more on the stored states: the objective, the value loss times its factor, and figures."""
        agent, settings = self.agent, self.config.imagination
        value = agent.value.loss(agent.value(work.states), work.returns, work.pmpo.all * factor)
        logits = agent.policy(work.states)
        log_prob = agent.policy.log_prob(logits, work.actions).sum((-2, -1))
        with torch.no_grad():
            prior_logits = self.prior(work.states)
        terms = pmpo_loss(log_prob, agent.policy.kl(logits, prior_logits), work.pmpo, settings.alpha, settings.beta)
        figures = {
            "loss/policy": terms["policy"],
            "loss/value": value / factor,
            "kl_prior": terms["prior"],
            "entropy": (agent.policy.entropy(logits) * work.present).sum(),
        }
        return {"policy": terms["policy"], "value": value}, {name: x.detach() for name, x in figures.items()}

    def program(self, rollouts: int) -> Program:
        """The program of a number of dreams: all of a batch's rollouts but for the last, smaller ones are alike."""
        if rollouts not in self._programs:
            given = self.config, self.world, self.agent, rollouts, self.backend, self.noise
            self._programs[rollouts] = build_program(*given, self.proves, self.shuffles, self.steps)
        return self._programs[rollouts]
