"""Pictures as the encoder wants them: resampled, in [-1, 1], and a whole number of latent steps long."""

from __future__ import annotations

import torch
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.nn import functional as F

from fastdreamer.errors import UserError
from fastdreamer.shapes import LatentClock

PIECE = 2**24  # numbers that are resampled at once: 64 MiB, and as much again for each copy
RESAMPLING = "bicubic a=-0.5 antialias clamp"  # part of the tokenizer's fingerprint


def preprocess(
    frames: Shaped[Tensor, "b _ _ h w"], clock: LatentClock, image_size: int, layout: str | None = None
) -> Float[Tensor, "b 3 t s s"]:
    """Frames, uint8 or float in [0, 1], as float32 in [-1, 1] at image_size, t padded to 1 + kc.

    Padding repeats the last frame. Layouts are `bcthw` and `btchw`; without one the axis of size 3 decides.

    Raises:
        UserError: for an ambiguous or impossible shape, or values outside their range.

    Bicubic is a=-0.5 (torch with antialias, as PIL and DALI), not
    the a=-0.75 of torch's default, which is 46 dB away from it.
    """
    frames = channels_first(frames, layout)
    batch, _, count, height, width = frames.shape
    if (height, width) == (image_size, image_size):
        scaled = to_unit(frames)
    else:
        # Piece by piece: as float32 a frame is four times as large, and so are the copies that resampling makes.
        images = frames.transpose(1, 2).flatten(0, 1)
        at_once, size = max(1, PIECE // images[0].numel()), (image_size, image_size)
        pieces = [
            F.interpolate(to_unit(piece), size, mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)
            for piece in images.split(at_once)
        ]
        scaled = pieces[0] if len(pieces) == 1 else torch.cat(pieces)
        scaled = scaled.unflatten(0, (batch, count)).transpose(1, 2)
    missing = padded_length(count, clock) - count
    if missing:
        scaled = torch.cat([scaled, scaled[:, :, -1:].expand(-1, -1, missing, -1, -1)], 2)
    return scaled * 2 - 1


def unpool(pooled: Float[Tensor, "b l n z"], rows: int, pool: int) -> Float[Tensor, "b z l h w"]:
    """Pooled tokens back on the latent grid, each repeated over its block."""
    grid = pooled.permute(0, 3, 1, 2).unflatten(-1, (rows, -1))
    return grid.repeat_interleave(pool, -2).repeat_interleave(pool, -1)


def padded_length(frames: int, clock: LatentClock) -> int:
    """The next 1 + kc that is at least `frames`."""
    return 1 + (clock.steps(frames) - 1) * clock.frames_per_latent


def to_unit(frames: Tensor) -> Tensor:
    """uint8 or float pictures as float32 in [0, 1].

    Raises:
        UserError: for another type, or float values outside [0, 1].
    """
    if frames.dtype == torch.uint8:
        return frames.float() / 255
    if not frames.is_floating_point():
        raise UserError(f"frames are {frames.dtype}; give uint8, or float in [0, 1]")
    frames = frames.float()
    low, high = (float(v) for v in frames.aminmax())
    if not (low >= -1e-3 and high <= 1 + 1e-3):
        raise UserError(f"float frames span [{low:.3g}, {high:.3g}]; give values in [0, 1], or uint8")
    return frames.clamp(0, 1)


def channels_first(frames: Tensor, layout: str | None) -> Tensor:
    """Move channels first: clips as (b,3,t,h,w).

    Raises:
        UserError: for an ambiguous or impossible shape.
    """
    if frames.ndim != 5 or 0 in frames.shape:
        raise UserError(f"frames have shape {tuple(frames.shape)}; expected (b,3,t,h,w) or (b,t,3,h,w), none empty")
    if layout is None:
        found = [name for name, axis in (("bcthw", 1), ("btchw", 2)) if frames.shape[axis] == 3]
        if len(found) > 1:
            raise UserError(f"frames of shape {tuple(frames.shape)} may be bcthw or btchw; pass layout")
        if not found:
            raise UserError(f"frames have shape {tuple(frames.shape)}; no axis of 3 colours at 1 or 2")
        layout = found[0]
    if layout not in ("bcthw", "btchw"):
        raise UserError(f"layout is {layout!r}; it must be bcthw or btchw")
    if frames.shape[layout.index("c")] != 3:
        raise UserError(f"frames have shape {tuple(frames.shape)}; layout {layout} needs 3 colours on its axis c")
    return frames if layout == "bcthw" else frames.transpose(1, 2)


def check_windows(windows: Tensor) -> None:
    """Refuse what is not uint8 (b, t, h, w, 3), or is empty.

    Raises:
        UserError: naming the shape and the type.
    """
    if windows.dtype != torch.uint8 or windows.ndim != 5 or windows.shape[-1] != 3 or 0 in windows.shape:
        raise UserError(f"windows are {windows.dtype} {tuple(windows.shape)}; give uint8 (b, t, h, w, 3), none empty")
