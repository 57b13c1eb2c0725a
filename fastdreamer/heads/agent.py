"""The agent: what the heads read, and the four heads (policy, reward, continuation, value).

Read-out `latents` (the plan's): the flattened (b, l, 256) normalised latents. Read-out `agent_tokens` (Dreamer 4,
section 3.3): agent tokens that read the frozen transformer; only their own embeddings train, and nothing reads them,
so the world model stays bit-identical.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from fastdreamer.config import Config
from fastdreamer.data.clips import Batch
from fastdreamer.dynamics.sampler import as_context
from fastdreamer.dynamics.world_model import WorldModel
from fastdreamer.heads.policy import Policy
from fastdreamer.heads.reward import Continuation, TwoHotHead
from fastdreamer.shapes import CHANNELS, TOKENS


class Agent(nn.Module):
    """Heads on the world model's states. The world model is passed in, never owned: it does not train here."""

    def __init__(self, config: Config, sizes: tuple[int, ...]) -> None:
        super().__init__()
        heads, dynamics = config.heads, config.dynamics
        self.config = heads
        self.agent_tokens = dynamics.agent_tokens if heads.readout == "agent_tokens" else 0
        self.tokens = nn.Parameter(torch.randn(self.agent_tokens, dynamics.dim) * 0.02)
        self.tasks = nn.Embedding(config.task_count, dynamics.dim) if config.task_count else None
        width = self.token_count * dynamics.dim if self.agent_tokens else TOKENS * CHANNELS
        if self.tasks is not None and not self.agent_tokens:
            width += dynamics.dim
        self.feature_width = width
        self.policy = Policy(heads, width, config.tokenizer.frames_per_latent, sizes)
        past = 2 if heads.reward_reads == "transition" else 1
        self.reward = TwoHotHead(heads, past * width, heads.reward_range)
        self.continuation = Continuation(heads, width)
        self.value = TwoHotHead(heads, width, heads.value_range)

    @property
    def token_count(self) -> int:
        """Agent tokens a step, the TASK token (which stands first) included; 0 with the `latents` read-out."""
        return self.agent_tokens + (self.tasks is not None) if self.agent_tokens else 0

    def embed_tokens(self, task: Int[Tensor, " b"]) -> Float[Tensor, "b a d"] | None:
        """The agent tokens of each sequence, or None with the `latents` read-out."""
        if not self.agent_tokens:
            return None
        tokens = self.tokens.expand(len(task), -1, -1)
        return tokens if self.tasks is None else torch.cat([self.tasks(task)[:, None], tokens], 1)

    def features(
        self, latents: Float[Tensor, "b n z"], read: Float[Tensor, "b l a d"] | None, task: Int[Tensor, " b"]
    ) -> Float[Tensor, "b f"]:
        """What the heads see of one step: normalised latents, or what the agent tokens read at the last of `l`."""
        if self.agent_tokens:
            assert read is not None
            return read[:, -1].flatten(1)
        flat = latents.flatten(1)
        return flat if self.tasks is None else torch.cat([self.tasks(task), flat], 1)

    def sequence_features(self, world: WorldModel, batch: Batch, noise: Tensor) -> Float[Tensor, "b l f"]:
        """Features of every step of a batch of real crops; gradients reach the agent's own parameters only."""
        latents = world.normalise(batch.latents, batch.positions)
        tokens = self.embed_tokens(batch.task)
        if tokens is not None:
            signal, noisy = as_context(world, latents, noise)
            action = world.embed_actions(batch.actions, batch.action_valid, batch.labelled)
            _, read = world.read(noisy, signal, torch.zeros_like(signal), action, tokens)
            assert read is not None
            return read.flatten(2)
        steps = latents.shape[1]
        flat = self.features(latents.flatten(0, 1), None, batch.task.repeat_interleave(steps))
        return flat.unflatten(0, (-1, steps))

    def reward_inputs(self, features: Float[Tensor, "b l f"]) -> Float[Tensor, "b l g"]:
        """What the reward head reads at each step; with `transition` the first step has no past (zeros)."""
        if self.config.reward_reads == "state":
            return features
        return torch.cat([torch.cat([torch.zeros_like(features[:, :1]), features[:, :-1]], 1), features], -1)

    def continues(self, features: Float[Tensor, "b l f"]) -> Float[Tensor, "b l"]:
        """Probability that the episode goes on after arriving at each step."""
        if self.config.continuation == "one":
            return torch.ones(features.shape[:-1], device=features.device)
        return self.continuation.probability(features)

    def returns_decoded(self, features: Float[Tensor, "*b f"]) -> Float[Tensor, "*b"]:
        """The value head's expectation."""
        return self.value.decode(self.value(features))
