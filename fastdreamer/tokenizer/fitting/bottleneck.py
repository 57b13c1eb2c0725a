"""What is fitted: encoder, pool and decoder in a row, so that the pooled latents must carry the picture."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from fastdreamer_kernels import latent_pool
from jaxtyping import Float
from torch import Tensor, nn

from fastdreamer.config import TokenizerConfig
from fastdreamer.shapes import CHANNELS, TOKENS
from fastdreamer.tokenizer.preprocess import unpool
from fastdreamer.tokenizer.single_frame import fold_single_frame

if TYPE_CHECKING:
    from diffusers import AutoencoderKLCosmos

NOISE = 0.05  # standard deviation added to the normalised latents while fitting


class Bottleneck(nn.Module):
    """Encoder, pool, normalisation by channel, noise, decoder: frames in [-1, 1] -> frames."""

    def __init__(self, model: AutoencoderKLCosmos, config: TokenizerConfig) -> None:
        super().__init__()
        self.model = model
        self.pool = config.pool
        # One-frame clips train a folded copy that shares the parameters; longer ones train the network itself.
        self.is_single = config.frames_per_latent == 1
        self.network = fold_single_frame(model, trainable=True) if self.is_single else model
        self.norm = nn.BatchNorm1d(CHANNELS, affine=False, momentum=0.01).to(next(model.parameters()).device)

    def encode(self, frames: Float[Tensor, "b 3 t h w"]) -> Float[Tensor, "b l n z"]:
        """Normalised pooled latents, noisy while training."""
        pooled = latent_pool(self.network._encode(frames), self.pool).float()
        normal = self.norm(pooled.flatten(0, 2)).view_as(pooled)
        return normal + NOISE * torch.randn_like(normal) if self.training else normal

    def decode(self, latents: Float[Tensor, "b l n z"]) -> Float[Tensor, "b 3 t h w"]:
        """Decode normalised pooled latents to frames."""
        return self.network._decode(unpool(latents, int(TOKENS**0.5), self.pool)).sample

    def forward(self, frames: Float[Tensor, "b 3 t h w"]) -> Float[Tensor, "b 3 t h w"]:
        return self.decode(self.encode(frames))
