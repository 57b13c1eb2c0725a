"""A dense decoder of the pooled latents, used only while fitting: what a head on the flattened latents could see."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from fastdreamer.shapes import CHANNELS, TOKENS

SIDE = 64  # pictures are compared at this size
WIDTH = 512


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
