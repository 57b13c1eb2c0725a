"""A small decoder from pooled latents to frames, trained beside phase 1, so that imagination can be watched."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fastdreamer.errors import UserError
from fastdreamer.shapes import CHANNELS, TOKENS


class PixelDecoder(nn.Module):
    """Normalised pooled latents of one step -> its c frames at the recordings' own size, in [0, 1].

    Two doublings by convolution and pixel shuffle, then a patch of pixels a cell: convolutions at full resolution
    would be most of the cost. The tokens first mix over the whole picture, because a fitted tokenizer is free to
    spread a detail over them.

    Raises:
        UserError: if the frames' side is not a multiple of 16.
    """

    def __init__(self, frames_per_latent: int = 1, size: int = 64, width: int = 64) -> None:
        super().__init__()
        self.frames_per_latent = frames_per_latent
        grid = int(TOKENS**0.5)
        patch, rest = divmod(size, 4 * grid)
        if rest or not patch:
            raise UserError(f"frames of {size} pixels a side cannot be drawn; give a multiple of {4 * grid}")
        self.unflatten = nn.Unflatten(1, (grid, grid))
        self.mix = nn.Sequential(nn.Linear(TOKENS * CHANNELS, TOKENS * CHANNELS), nn.SiLU())
        self.body = nn.Sequential(
            nn.Conv2d(2 * CHANNELS, width, 3, padding=1),
            *(_Residual(width), *_double(width, width)),
            *(_Residual(width), *_double(width, width)),
            *(_Residual(width), _Residual(width), nn.GroupNorm(1, width), nn.SiLU()),
            nn.Conv2d(width, 3 * patch**2 * frames_per_latent, 3, padding=1),
            nn.PixelShuffle(patch),
        )

    def forward(self, latents: Float[Tensor, "b n z"]) -> Float[Tensor, "b c 3 s s"]:
        """Frames in [0, 1]; step 0 of an episode is its single frame, the last of the c."""
        mixed = self.mix(latents.flatten(1)).view_as(latents)
        grid = torch.cat([self.unflatten(latents), self.unflatten(mixed)], -1).movedim(-1, 1)
        pixels: Tensor = self.body(grid).sigmoid()
        return pixels.unflatten(1, (self.frames_per_latent, 3))


def _double(before: int, after: int) -> tuple[nn.Module, nn.Module]:
    return nn.Conv2d(before, 4 * after, 3, padding=1), nn.PixelShuffle(2)


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.GroupNorm(1, width),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)
