"""The world model: normalisation, tokens, transformer and the read-out of clean latents.

Source: Dreamer 4 (arXiv:2509.24527), sections 3.2 and 3.4.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from fastdreamer.config import Config, DynamicsConfig, ForcingConfig
from fastdreamer.dynamics.cache import RingCache
from fastdreamer.dynamics.linear import MATRIX_CHOICES, LinearDynamics, Prediction
from fastdreamer.dynamics.tokens import StepTokens, multi_hot, parted
from fastdreamer.dynamics.transformer import Block, Transformer
from fastdreamer.shapes import CHANNELS, TOKENS, LatentClock


class WorldModel(nn.Module):
    """Predicts clean latents from noisy ones, signal levels, step sizes and actions.

    Latents are normalised by (position in the tokenizer window, channel): the first position of a window has another
    spread than the rest. The statistics are buffers, so a checkpoint carries them.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        config: DynamicsConfig,
        forcing: ForcingConfig,
        clock: LatentClock,
        sizes: tuple[int, ...],
        recomputes: bool = False,
    ) -> None:
        super().__init__()
        self.config, self.forcing, self.clock, self.sizes = config, forcing, clock, sizes
        self.tokens = StepTokens(config, forcing, clock.frames_per_latent, sizes)
        self.transformer = Transformer(config, recomputes)
        self.readout = nn.Linear(config.dim, CHANNELS * TOKENS // config.spatial_tokens)
        choices = clock.frames_per_latent * sum(sizes)
        self.linear = LinearDynamics(choices, choices <= MATRIX_CHOICES) if config.linear_start else None
        nn.init.zeros_(self.readout.weight)
        nn.init.zeros_(self.readout.bias)
        self.register_buffer("mean", torch.zeros(clock.positions, CHANNELS))
        self.register_buffer("std", torch.ones(clock.positions, CHANNELS))

    @classmethod
    def build(cls, config: Config, sizes: tuple[int, ...], recomputes: bool = False) -> WorldModel:
        """The world model of a whole configuration; `sizes` are the action components'. See `Transformer`."""
        return cls(config.dynamics, config.forcing, config.tokenizer.clock, sizes, recomputes)

    @property
    def world_tokens(self) -> int:
        """Tokens a step without agent tokens."""
        return self.tokens.first_spatial + self.config.spatial_tokens + self.config.registers

    @property
    def action_width(self) -> int:
        """Columns of `embed_actions`: the token's, and with a linear start the action's multi-hot behind it."""
        return self.config.dim + (self.linear.choices if self.linear is not None else 0)

    def set_statistics(self, mean: Float[Tensor, "p z"], std: Float[Tensor, "p z"]) -> None:
        """Fixes the normalisation; a channel that never varies keeps scale 1e-3 at least."""
        self.mean.copy_(mean)
        self.std.copy_(std.clamp(min=1e-3))

    def normalise(self, raw: Float[Tensor, "*b n z"], positions: Int[Tensor, "*b"]) -> Float[Tensor, "*b n z"]:
        """Raw pooled latents to zero mean and unit spread."""
        return (raw - self.mean[positions].unsqueeze(-2)) / self.std[positions].unsqueeze(-2)

    def denormalise(self, latents: Float[Tensor, "*b n z"], positions: Int[Tensor, "*b"]) -> Float[Tensor, "*b n z"]:
        """Undoes `normalise`."""
        return latents * self.std[positions].unsqueeze(-2) + self.mean[positions].unsqueeze(-2)

    def embed_actions(
        self, actions: Int[Tensor, "b l c k"], valid: Bool[Tensor, "b l c"], labelled: Bool[Tensor, " b"]
    ) -> Float[Tensor, "b l e"]:
        """Action tokens of the chunks that lead into each step (see `action_width`)."""
        out: Tensor = self.tokens.actions(actions, valid, labelled)
        if self.linear is None:
            return out
        return torch.cat([out, self.hot_actions(actions, valid & labelled[:, None, None]).to(out.dtype)], -1)

    def hot_actions(self, actions: Int[Tensor, "b l c k"], known: Bool[Tensor, "b l c"]) -> Float[Tensor, "b l h"]:
        """Multi-hots of chunks, for the linear start."""
        offsets = self.tokens.actions.offsets
        assert isinstance(offsets, Tensor) and self.linear is not None
        return multi_hot(actions, known, offsets, self.linear.choices)

    def forward(
        self,
        noisy: Float[Tensor, "b l n z"],
        signal: Int[Tensor, "b l"],
        step_size: Int[Tensor, "b l"],
        action: Float[Tensor, "b l d"],
        cache: RingCache | None = None,
    ) -> Float[Tensor, "b l n z"]:
        """Predicts the clean latents, in fp32.

        Args:
            noisy: normalised latents at signal level tau = signal / finest_steps.
            signal: index of tau, 0 (noise) .. finest_steps - 1.
            step_size: index of d: d = 2^step_size / finest_steps.
            action: action tokens, as `embed_actions` gives them.
            cache: the ring cache, if any: the steps are written to the cache but not committed.
        """
        return self.read(noisy, signal, step_size, action, None, cache)[0]

    def read(
        self,
        noisy: Float[Tensor, "b l n z"],
        signal: Int[Tensor, "b l"],
        step_size: Int[Tensor, "b l"],
        action: Float[Tensor, "b l d"],
        agents: Float[Tensor, "b a d"] | None,
        cache: RingCache | None = None,
        silent: int = 0,
    ) -> tuple[Float[Tensor, "b m n z"], Float[Tensor, "b l a d"] | None]:
        """Predicts as `forward`, with agent tokens behind every step's: (clean latents, what the agent tokens read).

        The first `silent` steps are only written to the cache (m = l - silent); see `Transformer.forward`.
        """
        start = self.linear_start(noisy, signal, action, cache)
        action = action[..., : self.config.dim]
        x = self.tokens(noisy, signal, step_size, action, None if start is None else start.mean)
        if agents is not None:
            agents = agents[:, None].to(x.dtype).expand(-1, x.shape[1], -1, -1)
        first = self.tokens.first_spatial
        kept = slice(first, first + self.config.spatial_tokens)
        spatial, read = self.transformer(x, self.tokens.registers, agents, cache, kept, silent)
        if silent == noisy.shape[1]:
            return noisy[:, silent:], read
        clean = parted(self.readout(spatial)).float()
        if start is not None:
            mean, spread = start.posterior(noisy, self._tau(signal)[..., None, None])
            clean = mean[:, silent:] + spread[:, silent:] * clean
        return clean, None if read is None else read.float()

    def linear_start(
        self,
        noisy: Float[Tensor, "b l n z"],
        signal: Int[Tensor, "b l"],
        action: Float[Tensor, "b l e"],
        cache: RingCache | None = None,
    ) -> Prediction | None:
        """What the linear model says of each step from the one before it: in the crop, or the cache's newest."""
        if self.linear is None:
            return None
        tau = self._tau(signal)
        if cache is None:
            first, first_tau = torch.zeros_like(noisy[:, :1]), torch.zeros_like(tau[:, :1])
        else:
            first, first_tau = cache.newest[:, None], self._tau(cache.newest_signal[:, None])
        before = torch.cat([first, noisy[:, :-1]], 1)
        return self.linear(before, torch.cat([first_tau, tau[:, :-1]], 1), action[..., self.config.dim :])

    def _tau(self, signal: Int[Tensor, "b l"]) -> Float[Tensor, "b l"]:
        return signal / self.forcing.finest_steps

    def new_cache(self, batch: int, agents: int = 0, steps: int = 1) -> RingCache:
        """An empty ring cache for `batch` sequences on the model's device; a pass may write `steps` steps at once."""
        dtype = torch.get_autocast_dtype(self.mean.device.type) if _autocasting(self.mean) else torch.float32
        equals = self._registers(dtype) if len(self.transformer.blocks) > 1 else None
        return RingCache(self.config, batch, self.world_tokens, agents, self.mean.device, dtype, steps, equals)

    @torch.no_grad()
    def _registers(self, dtype: torch.dtype) -> Float[Tensor, "r d"]:
        """Returns the registers behind the first block."""
        block = self.transformer.blocks[0]
        assert isinstance(block, Block)
        return block.of_equals(self.tokens.registers.to(dtype))


def _autocasting(tensor: Tensor) -> bool:
    return torch.is_autocast_enabled(tensor.device.type)
