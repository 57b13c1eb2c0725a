"""Imagination with a cache that grows by concatenation: what most public implementations with a cache do.

Keys and values of the time layers are kept; every pass joins them with the new step's, and a finished step has a pass
of its own that commits it. The mathematics are `bench.naive.rollout`'s, so both give the same dreams.
Source: Dreamer 4 (arXiv:2509.24527), sections 3.2 and 3.3.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from bench.naive.model import FIRST_SPATIAL, Attention, Block, NaiveWorldModel
from fastdreamer.shapes import TOKENS


class Cached:
    """Keys and values of every time layer, (b, s, heads, l, e), and how many steps were committed in all.

    As `bench.naive.rollout.Recomputed`, whose arguments it takes.
    """

    def __init__(self, model: NaiveWorldModel, level: int, tokens: Float[Tensor, "b a d"] | None) -> None:
        self.model, self.level, self.tokens, self.steps = model, level, tokens, 0
        self.layers: dict[int, tuple[Tensor, Tensor]] = {}
        self.seen: Tensor | None = None

    def commit(self, state: Float[Tensor, "b n z"], action: Float[Tensor, "b d"]) -> None:
        """Make a step, noised to the level, part of the past."""
        _, read = self.predict(state, self.level, 0, action, self.tokens, commits=True)
        self.seen = None if self.tokens is None else read[:, None]

    def sample(self, action: Float[Tensor, "b d"], noise: Float[Tensor, "b n z"]) -> Float[Tensor, "b n z"]:
        """The next step, from `noise`."""
        steps, z = self.model.forcing.sample_steps, noise
        stride = self.model.forcing.finest_steps // steps
        for i in range(steps):
            clean = self.predict(z, i * stride, stride.bit_length() - 1, action)[0]
            z = z + (clean - z) / steps / (1 - i / steps)
        return z

    def read(self) -> Float[Tensor, "b 1 a d"] | None:
        """What the agent tokens read of the newest step."""
        return self.seen

    def predict(
        self,
        noisy: Float[Tensor, "b n z"],
        signal: int,
        step_size: int,
        action: Float[Tensor, "b d"],
        agents: Float[Tensor, "b a d"] | None = None,
        commits: bool = False,
    ) -> tuple[Float[Tensor, "b n z"], Float[Tensor, "b a d"]]:
        """(clean latents of the step behind the past, what agent tokens read); `commits` makes it part of the past."""
        model, levels = self.model, torch.full((len(noisy), 1), signal, device=noisy.device)
        x = model.tokens(noisy[:, None], levels, torch.full_like(levels, step_size), action[:, None])[:, 0]
        world = x.shape[1]
        if agents is not None:
            x = torch.cat([x, agents], 1)
        token = torch.arange(x.shape[1], device=x.device)
        mask = (token[None, :] < world) | (token[:, None] >= world)
        for layer, block in enumerate(model.transformer.blocks):
            assert isinstance(block, Block)
            rows, attention = block.attention_norm(x), block.attention
            x = x + (self._attend(layer, attention, rows, commits) if block.is_time else attention(rows, mask))
            x = x + block.feed_forward(block.feed_forward_norm(x))
        x = model.transformer.norm(x)
        self.steps += commits
        return model.readout(x[:, FIRST_SPATIAL : FIRST_SPATIAL + TOKENS]).float(), x[:, world:].float()

    def _attend(
        self, layer: int, attention: Attention, x: Float[Tensor, "b s d"], commits: bool
    ) -> Float[Tensor, "b s d"]:
        """What one new step's tokens read of their own past and of themselves."""
        batch, tokens = x.shape[:2]
        query, key, value = attention.project(x.flatten(0, 1).unsqueeze(1), self.steps)
        key, value = (new.unflatten(0, (batch, tokens)) for new in (key, value))
        if layer in self.layers:
            key, value = (
                torch.cat([old[:, :tokens], new], -2)[..., -self.model.transformer.context :, :]
                for old, new in zip(self.layers[layer], (key, value), strict=True)
            )
        if commits:
            self.layers[layer] = key, value
        return attention.read(query, key.flatten(0, 1), value.flatten(0, 1), None).view(batch, tokens, -1)
