"""Phase 3 with one thing put wrong on purpose: whoever still gains did not gain by what imagination says.

Each is `ImaginationPhase` but for that one thing: the same starts, objective and number of updates. And with the real
game in place of the dream: what perfect imagination would give at the same budget.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy import ndarray
from torch import Tensor, nn

from fastdreamer.config import Config
from fastdreamer.device import Backend
from fastdreamer.dynamics.world_model import WorldModel
from fastdreamer.evaluation.closed_loop import Encoder
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


FIRST_WORLD = 100_000_000  # far from those that are recorded and evaluated


class Players(Protocol):
    """Games that are begun one by one and stepped together, as `envs.games.Games`."""

    count: int

    @property
    def frames(self) -> ndarray: ...

    def begin(self, games: Sequence[int], worlds: Sequence[int], tasks: Sequence[str]) -> None: ...

    def step(self, actions: Int[ndarray, "e k"], active: Bool[ndarray, " e"]) -> tuple[Any, ...]: ...


class NextWorld:
    """Counts the worlds that were begun; its state is saved with the phase, so that none comes twice."""

    def __init__(self, first: int) -> None:
        self.next = first

    def take(self, count: int) -> range:
        """Take the next `count` worlds."""
        self.next += count
        return range(self.next - count, self.next)

    def get_state(self) -> Tensor:
        """Return the state for the checkpoint."""
        return torch.tensor([self.next])

    def set_state(self, state: Tensor, /) -> None:
        """Restore the state from a checkpoint."""
        self.next = int(state)


class RealGame(ImaginationPhase):
    """Rollouts of `imagination.horizon` latent steps played in the real game, for the task's real reward.

    Heads, objective and updates are those of phase 3; the games go on from update to update. Between updates a game
    that is over, or has reached its number of steps, begins in a new world; a rollout starts a new tokenizer window.
    A resumed phase begins its games anew, for a game in progress cannot be saved.

    Args:
        games: the games, `study.real_games` of them.
        encoder: the frozen tokenizer for as many.
        tasks: the names of the tasks, by their number; games take turns.
    """

    def __init__(
        self,
        config: Config,
        world: WorldModel,
        agent: Agent,
        prior: Policy,
        loader: Loader,
        backend: Backend,
        *,
        games: Players,
        encoder: Encoder,
        tasks: Sequence[str],
    ) -> None:
        super().__init__(config, world, agent, prior, loader, backend)
        count = games.count
        self.games, self.encoder = games, encoder
        self.numbers = np.arange(count) % len(tasks)
        self.tasks = [tasks[number] for number in self.numbers.tolist()]
        self.worlds = NextWorld(FIRST_WORLD + 1_000_000 * config.seed)
        self.generators = {**self.generators, "worlds": self.worlds}
        # The first games are cut short at different times, so that the states of an update are of all ages.
        longest = config.evaluation.max_steps
        self.left = (1 + np.arange(count)) * longest // count
        self.longest, self.is_over = longest, np.ones(count, bool)
        self.is_new = np.ones(count, bool)
        self.trace = agent.history.start(count) if agent.history is not None else None

    @torch.no_grad()
    def imagine(self, batch: Batch) -> Rollout:
        """A rollout of every game, from where it stands; the recorded crops are not used."""
        horizon, c = self.config.imagination.horizon, self.config.tokenizer.frames_per_latent
        self._begin()
        active = np.ones(self.games.count, bool)
        rewards, continues = (np.zeros((self.games.count, horizon), np.float32) for _ in range(2))
        task = torch.from_numpy(self.numbers).to(self.backend.device)
        states = [self._state(self.encoder.reset(torch.from_numpy(self.games.frames)))]
        features = [self.agent.features(states[0], None, task, self.trace)]
        actions = []
        for k in range(horizon):
            chunk = self._choose(features[-1])
            played, seen = chunk.cpu().numpy(), []
            for frame in range(c):
                frames, paid, terminated, _, _ = self.games.step(played[:, frame], active)
                rewards[:, k] += self.config.imagination.gamma**frame * paid
                self.left -= active
                active &= ~terminated
                seen.append(frames)
            continues[:, k] = active
            states.append(self._state(self.encoder.push(torch.from_numpy(np.stack(seen, axis=1)))))
            if self.agent.history is not None and self.trace is not None:
                self.trace = self.agent.history.after(
                    self.trace, chunk, torch.ones_like(chunk[..., 0], dtype=torch.bool)
                )
            features.append(self.agent.features(states[-1], None, task, self.trace))
            actions.append(chunk)
        self.is_over = ~active | (self.left <= 0)
        return Rollout(
            latents=torch.stack(states, 1),
            features=torch.stack(features, 1).float(),
            actions=torch.stack(actions, 1),
            rewards=torch.from_numpy(rewards).to(self.backend.device),
            continues=torch.from_numpy(continues).to(self.backend.device),
        )

    def _begin(self) -> None:
        over = np.flatnonzero(self.is_over).tolist()
        if not over:
            return
        self.games.begin(over, self.worlds.take(len(over)), [self.tasks[game] for game in over])
        again = self.is_over & ~self.is_new
        self.left[again] = self.longest
        if self.trace is not None:
            self.trace[over] = 0.0
        self.is_new[:] = False

    def _state(self, latents: Float[Tensor, "b n z"]) -> Float[Tensor, "b n z"]:
        positions = torch.full((len(latents),), self.encoder.position, device=self.backend.device)
        return self.world.normalise(latents.float().to(self.backend.device), positions)

    def _choose(self, features: Float[Tensor, "b f"]) -> Int[Tensor, "b c k"]:
        with self.backend.autocast():
            logits = self.agent.policy(features)
        uniform = torch.rand(logits.shape, generator=self.noise, device=logits.device)
        return self.agent.policy.choose(logits, uniform)
