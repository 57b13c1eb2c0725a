"""The agent: what the heads read, and the four heads (policy, reward, continuation, value).

Read-out `latents`: the flattened (b, l, 256) normalised latents. Read-out `agent_tokens` (Dreamer 4,
section 3.3): agent tokens that read the frozen transformer; only their own embeddings train, and nothing reads them,
so the world model stays bit-identical.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from fastdreamer.config import Config
from fastdreamer.dynamics.sampler import as_context
from fastdreamer.dynamics.tokens import choice_offsets, multi_hot
from fastdreamer.dynamics.world_model import WorldModel
from fastdreamer.heads.history import History
from fastdreamer.heads.policy import Policy
from fastdreamer.heads.reward import Continuation, TwoHotHead
from fastdreamer.latents.batch import Batch
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
        chunk = config.tokenizer.frames_per_latent
        self.register_buffer("offsets", choice_offsets(chunk, sizes), persistent=False)
        self.choices = chunk * sum(sizes)
        self.history = History(heads.history, chunk, sizes) if heads.history else None
        width += self.history.width if self.history is not None else 0
        self.feature_width = width
        self.policy = Policy(heads, width, chunk, sizes)
        reads = {"state": width, "transition": 2 * width, "action": width + self.choices}
        inputs = reads.get(heads.reward_reads, 2 * width + self.choices)
        self.reward = TwoHotHead(heads, inputs, heads.reward_range, heads.reward_dropout, heads.reward_members)
        self.continuation = Continuation(heads, width)
        self.value = TwoHotHead(heads, width, heads.value_range)

    @property
    def token_count(self) -> int:
        """Agent tokens a step, the TASK token (which stands first) included; 0 with the `latents` read-out."""
        return self.agent_tokens + (self.tasks is not None) if self.agent_tokens else 0

    @property
    def remembers(self) -> bool:
        """Whether what the heads see of a step depends on the steps before it."""
        return bool(self.agent_tokens) or self.history is not None

    def embed_tokens(self, task: Int[Tensor, " b"]) -> Float[Tensor, "b a d"] | None:
        """The agent tokens of each sequence, or None with the `latents` read-out."""
        if not self.agent_tokens:
            return None
        tokens = self.tokens.expand(len(task), -1, -1)
        return tokens if self.tasks is None else torch.cat([self.tasks(task)[:, None], tokens], 1)

    def features(
        self,
        latents: Float[Tensor, "b n z"],
        read: Float[Tensor, "b l a d"] | None,
        task: Int[Tensor, " b"],
        trace: Float[Tensor, "b h"] | None = None,
    ) -> Float[Tensor, "b f"]:
        """What the heads see of one step: normalised latents, or what the agent tokens read at the last of `l`.

        `trace` is that of the actions before, where there is a `history`.
        """
        if self.agent_tokens:
            assert read is not None
            return read[:, -1].flatten(1)
        flat = latents.flatten(1)
        if self.history is not None:
            assert trace is not None
            flat = torch.cat([flat, trace], 1)
        return flat if self.tasks is None else torch.cat([self.tasks(task), flat], 1)

    def sequence_features(self, world: WorldModel, batch: Batch, noise: Tensor) -> Float[Tensor, "b l f"]:
        """Features of every step of a batch of real crops; gradients reach the agent's own parameters only.

        Args:
            noise: the noise of the context which agent tokens read; else what blurs the latents, in units of
                `heads.input_noise`. Nothing does where its rows are empty.
        """
        latents = world.normalise(batch.latents, batch.positions)
        tokens = self.embed_tokens(batch.task)
        if tokens is not None:
            signal, noisy = as_context(world, latents, noise)
            action = world.embed_actions(batch.actions, batch.action_valid, batch.labelled)
            _, read = world.read(noisy, signal, torch.zeros_like(signal), action, tokens)
            assert read is not None
            return read.flatten(2)
        if noise.numel():
            latents = latents + self.config.input_noise * noise
        steps = latents.shape[1]
        trace = self.traces(batch)
        trace = None if trace is None else trace.flatten(0, 1)
        flat = self.features(latents.flatten(0, 1), None, batch.task.repeat_interleave(steps), trace)
        return flat.unflatten(0, (-1, steps))

    def traces(self, batch: Batch) -> Float[Tensor, "b l h"] | None:
        """What was done before each step of real crops, as far as the crops go; None without a `history`."""
        if self.history is None:
            return None
        return self.history.along(batch.actions, batch.action_valid & batch.labelled[:, None, None])

    @property
    def reward_needs_past(self) -> bool:
        """Whether the first step of a sequence has no reward, because what led to it is not there."""
        return self.config.reward_reads != "state"

    @property
    def reward_reads_actions(self) -> bool:
        """Whether the reward head has to know what led into a step."""
        return self.config.reward_reads in ("action", "all")

    def reward_logits(
        self,
        features: Float[Tensor, "b l f"],
        actions: Int[Tensor, "b l c k"] | None = None,
        known: Bool[Tensor, "b l c"] | None = None,
    ) -> Float[Tensor, "b l *m cols"]:
        """The reward head at each step.

        Args:
            features: features of the steps; where the head reads the step before, the first one has none (zeros).
            actions: the chunk that led INTO each step, for a head that reads it.
            known: mask of the positions that are known.
        """
        reads = self.config.reward_reads
        parts = []
        if reads != "state":
            parts.append(torch.cat([torch.zeros_like(features[:, :1]), features[:, :-1]], 1))
        if self.reward_reads_actions:
            assert isinstance(self.offsets, Tensor) and actions is not None and known is not None
            parts.append(multi_hot(actions, known, self.offsets, self.choices).to(features.dtype))
        if reads != "action":
            parts.append(features)
        logits: Tensor = self.reward(torch.cat(parts, -1) if len(parts) > 1 else parts[0])
        return logits

    def batch_logits(self, features: Float[Tensor, "b l f"], batch: Batch) -> Float[Tensor, "b l *m cols"]:
        """The reward head at the steps of real crops, whose features these are."""
        if not self.reward_reads_actions:
            return self.reward_logits(features)
        return self.reward_logits(features, batch.actions, batch.action_valid & batch.labelled[:, None, None])

    def recorded_rewards(self, features: Float[Tensor, "b l f"], batch: Batch) -> Float[Tensor, "b l"]:
        """What the reward head says of the steps of real crops, whose features these are."""
        return self.reward.decode(self.batch_logits(features, batch))

    def imagined_rewards(
        self, features: Float[Tensor, "b s f"], actions: Int[Tensor, "b h c k"]
    ) -> Float[Tensor, "b h"]:
        """The rewards of a rollout: what arrives with states 1 .. H, given the chunks taken at 0 .. H-1."""
        if not self.reward_reads_actions:
            return self.reward.decode(self.reward_logits(features))[:, 1:]
        led = torch.cat([torch.zeros_like(actions[:, :1]), actions], 1)
        known = torch.ones(led.shape[:3], dtype=torch.bool, device=led.device)
        return self.reward.decode(self.reward_logits(features, led, known))[:, 1:]

    def continues(self, features: Float[Tensor, "b l f"]) -> Float[Tensor, "b l"]:
        """Probability that the episode goes on after arriving at each step."""
        if self.config.continuation == "one":
            return torch.ones(features.shape[:-1], device=features.device)
        return torch.sigmoid(self.continuation(features))

    def returns_decoded(self, features: Float[Tensor, "*b f"]) -> Float[Tensor, "*b"]:
        """The value head's expected return."""
        return self.value.decode(self.value(features))
