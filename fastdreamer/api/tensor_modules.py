"""Parts of a trained run as modules that are called with raw latents and answer with tensors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from fastdreamer.config import Config
from fastdreamer.dynamics.world_model import WorldModel
from fastdreamer.heads.actor import Actor
from fastdreamer.heads.agent import Agent
from fastdreamer.heads.policy import Policy
from fastdreamer.heads.reward import TwoHotHead
from fastdreamer.imagination.returns import rollout_returns
from fastdreamer.imagination.rollout import imagine
from fastdreamer.latents.batch import Batch
from fastdreamer.tokenizer.acting import ActingEncoder
from fastdreamer.tokenizer.frozen import FrozenTokenizer


class Tokenizer(nn.Module):
    """The frozen tokenizer as a module."""

    def __init__(self, frozen: FrozenTokenizer) -> None:
        super().__init__()
        self.frozen, self.clock = frozen, frozen.clock
        self.encoder, self.decoder = frozen.graphs["encoder"], frozen.graphs["decoder"]

    def encode(self, frames: Tensor) -> dict[str, Tensor]:
        """Clips (b,3,t,h,w) or (b,t,3,h,w), uint8 or in [0, 1], to {"latents": (b, l, 16, 16)}."""
        return {"latents": self.frozen.encode(frames)}

    def decode(self, latents: Float[Tensor, "b l n z"]) -> Float[Tensor, "b 3 t h w"]:
        """Pictures in [0, 1]; pooled latents are lossy."""
        return self.frozen.decode_pooled(latents)


class PolicyHead(nn.Module):
    """The policy head on flattened latents."""

    def __init__(self, policy: Policy, normalise: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.policy, self._normalise = policy, normalise

    def forward(self, latents: Float[Tensor, "*b f"]) -> dict[str, Any]:
        """{"logits" (*b, c, sum of sizes), "components": [probabilities (*b, c, size)] and "probs"}.

        `probs` are those of the action's only component at the chunk's first frame, or of all components side by side.
        """
        logits = self.policy(self._normalise(latents))
        components = [part.exp() for part in self.policy.log_softmax(logits)]
        return {"logits": logits, "components": components, "probs": torch.cat(components, -1)[..., 0, :]}


class ScalarHead(nn.Module):
    """The reward or value head on flattened latents."""

    def __init__(
        self, head: TwoHotHead, normalise: Callable[[Tensor], Tensor], logits: Callable[[Tensor], Tensor]
    ) -> None:
        super().__init__()
        self.head, self._normalise, self._logits = head, normalise, logits

    def forward(self, latents: Float[Tensor, "*b f"]) -> Float[Tensor, "*b"]:
        """The expected scalar of each row."""
        return self.head.decode(self._logits(self._normalise(latents)))


class Imagination(nn.Module):
    """Dreams from raw latents; frozen parts get no gradient, nothing here has one."""

    def __init__(self, config: Config, world: WorldModel, agent: Agent, seed: int = 0) -> None:
        super().__init__()
        self.config, self.world, self.agent = config, world, agent
        self.generator = torch.Generator().manual_seed(seed)

    @torch.no_grad()
    def forward(
        self, latents: Float[Tensor, "b l n z"], horizon: int = 0, lambda_: float | None = None
    ) -> dict[str, Tensor]:
        """Rolls out from the last of `l` real steps whose actions are unknown.

        Returns:
            latents (b, h+1, n, z) normalised, actions (b, h, c, k), rewards, continues, values, returns and advantages
            (b, h).
        """
        settings = self.config.imagination
        first = start(latents, self.world, self.config.evaluation.task)
        rollout = imagine(self.world, self.agent, first, horizon or settings.horizon, self.generator)
        values = self.agent.returns_decoded(rollout.features)
        gamma = settings.gamma**self.world.clock.frames_per_latent
        mixing = settings.lambda_ if lambda_ is None else lambda_
        returns = rollout_returns(rollout, values, gamma, mixing)
        return {
            "latents": rollout.latents,
            "actions": rollout.actions,
            "rewards": rollout.rewards,
            "continues": rollout.continues,
            "values": values[:, :-1],
            "returns": returns,
            "advantages": returns - values[:, :-1],
        }


def start(latents: Float[Tensor, "b l n z"], world: WorldModel, task: int = 0) -> Batch:
    """Real steps without their actions, from an episode's beginning, as a batch of one task."""
    count, steps = latents.shape[:2]
    chunk, device = world.clock.frames_per_latent, latents.device
    return replace(
        Batch.blank(count, steps, chunk, len(world.sizes), device, known=False),
        latents=latents.float(),
        positions=torch.tensor([world.clock.position(s) for s in range(steps)], device=device).expand(count, -1),
        task=torch.full((count,), task, dtype=torch.int64, device=device),
    )


class Player:
    """The agent in an environment: frames in, actions out; it remembers the episode as far as its heads do."""

    def __init__(self, tokenizer: FrozenTokenizer, actor: Actor, is_greedy: bool = False, seed: int = 0) -> None:
        self.tokenizer, self.actor, self.is_greedy = tokenizer, actor, is_greedy
        self.generator = torch.Generator().manual_seed(seed)
        self.reset()

    def reset(self) -> None:
        """Forgets the episodes: the next frames are the first ones of new ones."""
        self.actor.reset()
        self._encoder: ActingEncoder | None = None

    def act(self, frames: UInt8[Tensor, "e t h w 3"]) -> Int[Tensor, "e c k"]:
        """The next chunk of actions of every episode.

        Args:
            frames: the first frame of each (t is 1); after that the c frames to which the last chunk led.
        """
        if self._encoder is None:
            self._encoder = ActingEncoder(self.tokenizer, len(frames))
            latents = self._encoder.reset(frames[:, 0])
        else:
            latents = self._encoder.push(frames)
        positions = torch.full((len(frames),), self._encoder.position, dtype=torch.int64, device=latents.device)
        return self.actor.act(latents, positions, self.is_greedy, self.generator)
