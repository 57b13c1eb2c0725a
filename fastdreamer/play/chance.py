"""Chance of a session: each draw is a function of session, episode and step, so that what is rewound comes again."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from fastdreamer.shapes import CHANNELS, TOKENS

_DREAM, _AGENT, _RANDOM = range(3)


class Chance:
    """All draws of one episode of a session."""

    def __init__(self, seed: int, episode: int) -> None:
        self.seed, self.episode = seed, episode

    def noise(self, step: int) -> Float[Tensor, "2 n z"]:
        """Noise of a latent step: where its denoising begins, and what it is noised with as context."""
        return torch.randn(2, TOKENS, CHANNELS, generator=self._generator(step, _DREAM))

    def uniform(self, step: int, chunk: int, choices: int) -> Float[Tensor, "c a"]:
        """Draws of an agent's chunk at a latent step."""
        return torch.rand(chunk, choices, generator=self._generator(step, _AGENT))

    def random_chunk(self, step: int, chunk: int, sizes: tuple[int, ...]) -> np.ndarray:
        """Uniform actions, (c, k)."""
        random = np.random.default_rng(self._words(step, _RANDOM))
        return np.stack([random.integers(0, size, chunk) for size in sizes], -1)

    def _generator(self, step: int, kind: int) -> torch.Generator:
        state = np.random.SeedSequence(self._words(step, kind)).generate_state(1, np.uint64)
        return torch.Generator().manual_seed(int(state[0]) >> 1)

    def _words(self, step: int, kind: int) -> tuple[int, ...]:
        return (self.seed, self.episode, step, kind)
