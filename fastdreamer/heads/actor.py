"""Acting in an environment: raw latents in, a chunk of actions out, with the dynamics' memory where it is needed."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fastdreamer.dynamics.cache import RingCache
from fastdreamer.dynamics.sampler import commit
from fastdreamer.dynamics.world_model import WorldModel
from fastdreamer.heads.agent import Agent


class Actor:
    """A trained policy for `batch` environments in lockstep.

    With the `latents` read-out it is reactive, but for a trace of what it did (`heads.history`); with `agent_tokens` it
    keeps a ring cache of what it saw and did. So `reset` must be called when the environments are.
    """

    def __init__(self, world: WorldModel, agent: Agent, task: int = 0) -> None:
        self.world, self.agent, self.task = world.eval(), agent.eval(), task
        self.reset()

    def reset(self) -> None:
        """Forgets the past: the next `act` sees an episode's step 0."""
        self._cache: RingCache | None = None
        self._last: Tensor | None = None
        self._trace: Tensor | None = None

    @torch.no_grad()
    def act(
        self,
        latents: Float[Tensor, "b n z"],
        positions: Int[Tensor, " b"],
        greedy: bool = False,
        generator: torch.Generator | None = None,
        uniform: Float[Tensor, "b c a"] | None = None,
    ) -> Int[Tensor, "b c k"]:
        """The next chunk for each environment, from the RAW latents of its newest step.

        A sample's draws are the generator's, or `uniform` where they are given.
        """
        world, agent = self.world, self.agent
        state = world.normalise(latents, positions)
        task = torch.full((len(latents),), self.task, device=latents.device)
        read = None
        tokens = agent.embed_tokens(task)
        if tokens is not None:
            if self._cache is None:
                self._cache = world.new_cache(len(latents), agent.token_count)
            chunk, k = agent.policy.chunk, len(world.sizes)
            past = self._last if self._last is not None else latents.new_zeros(len(latents), chunk, k).long()
            valid = torch.full((len(latents), 1, chunk), self._last is not None, device=latents.device)
            action = world.embed_actions(past[:, None], valid, torch.ones_like(valid[:, 0, 0]))
            noise = torch.randn(state.shape, generator=generator).to(state.device)
            read = commit(world, self._cache, state[:, None], action, noise[:, None], tokens)
        logits = agent.policy(agent.features(state, read, task, self._traced(len(latents))))
        if uniform is not None:
            self._last = agent.policy.choose(logits, uniform)
        else:
            self._last = agent.policy.act(logits, greedy, generator)
        return self._last

    def _traced(self, count: int) -> Tensor | None:
        """The trace of what was done before now."""
        history = self.agent.history
        if history is None:
            return None
        if self._trace is None:
            self._trace = history.start(count)
        if self._last is not None:
            known = torch.ones(self._last.shape[:2], dtype=torch.bool, device=self._last.device)
            self._trace = history.after(self._trace, self._last, known)
        return self._trace

    def did(self, chunk: Int[Tensor, "b c k"]) -> None:
        """Take in what is done now, where it is another chunk than `act` chose."""
        self._last = chunk
