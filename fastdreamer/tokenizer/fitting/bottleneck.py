"""What is fitted: encoder, pool and decoder in a row, so that the pooled latents must carry the picture.

And a dense decoder of the pooled latents, used only while fitting: what a head on the flattened latents could see.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from fastdreamer_kernels import latent_pool
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from fastdreamer.config import TokenizerConfig
from fastdreamer.shapes import CHANNELS, TOKENS
from fastdreamer.tokenizer.preprocess import unpool
from fastdreamer.tokenizer.single_frame import fold_single_frame

if TYPE_CHECKING:
    from diffusers import AutoencoderKLCosmos

SIDE = 64  # pictures are compared at this size
WIDTH = 512
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


class DenseDecoder(nn.Module):
    """Latents of a step -> its picture: the best linear map, and an MLP that starts at zero beside it.

    Convolutional decoders need hours to place objects of a few pixels; this one starts where linear algebra ends, so
    that the encoder gets useful gradients from the first step on. Policy, reward and value heads are MLPs on the same
    numbers: what this decoder recovers, they can use.
    """

    def __init__(self) -> None:
        super().__init__()
        inputs, outputs = TOKENS * CHANNELS, 3 * SIDE * SIDE
        self.linear = nn.Linear(inputs, outputs)
        last = nn.Linear(WIDTH, outputs)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.mlp = nn.Sequential(nn.Linear(inputs, WIDTH), nn.SiLU(), nn.Linear(WIDTH, WIDTH), nn.SiLU(), last)

    def forward(self, latents: Float[Tensor, "b n z"]) -> Float[Tensor, "b 3 s s"]:
        flat = latents.flatten(1)
        return (self.linear(flat) + self.mlp(flat)).unflatten(1, (3, SIDE, SIDE))

    @torch.no_grad()
    def solve(self, draw: Callable[[], tuple[Tensor, Tensor]], batches: int = 128) -> None:
        """Set the linear map by ridge regression on drawn (latents (b, n, z), pictures (b, 3, s, s))."""
        drawn = [draw() for _ in range(batches)]
        x = torch.cat([latents.flatten(1) for latents, _ in drawn])
        y = torch.cat([pictures.flatten(1) for _, pictures in drawn])
        x_mean, y_mean = x.mean(0), y.mean(0)
        x, y = x - x_mean, y - y_mean
        gram = x.T @ x + 0.01 * len(x) * torch.eye(x.shape[1], device=x.device)
        weight = torch.linalg.solve(gram, x.T @ y)
        self.linear.weight.copy_(weight.T)
        self.linear.bias.copy_(y_mean - x_mean @ weight)


def shrink(frames: Float[Tensor, "b 3 1 h w"]) -> Float[Tensor, "b 3 s s"]:
    """Single-frame clips as pictures of SIDE pixels."""
    images = frames.squeeze(2)
    if images.shape[-1] == SIDE:
        return images
    return F.interpolate(images, (SIDE, SIDE), mode="bilinear", antialias=True, align_corners=False)
