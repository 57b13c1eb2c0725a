"""The window protocol: an episode's frames as chunks of whole windows, whatever pieces the frames arrive in.

Windows of `clock.window` frames share their border frame; a chunk is up to `at_once` of them, end to end, so
1 + k (window - 1) frames, the last window padded by its last frame. Chunks share their border frame as windows do. With
one frame a latent step a chunk is just up to `at_once` frames. Source: ALGORITHM 1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch
from jaxtyping import UInt8
from torch import Tensor

from fastdreamer.shapes import LatentClock


def chunk_sizes(frames: int, clock: LatentClock, at_once: int) -> list[int]:
    """Frames in each chunk of an episode, padding and shared borders included."""
    stride = clock.window - 1
    if not stride:
        return [min(at_once, frames - first) for first in range(0, frames, at_once)]
    windows = max(1, -(-(frames - 1) // stride))
    return [1 + stride * min(at_once, windows - first) for first in range(0, windows, at_once)]


def into_chunks(
    pieces: Iterable[UInt8[Tensor, "n h w 3"]],
    sizes: list[int],
    clock: LatentClock,
    new: Callable[[tuple[int, ...]], UInt8[Tensor, "t h w 3"]] = lambda shape: torch.empty(shape, dtype=torch.uint8),
) -> Iterator[UInt8[Tensor, "t h w 3"]]:
    """Copies frames that come in pieces of any length into chunks of `sizes`, each in a buffer that `new` makes.

    Ends with the pieces: if they are fewer than the sizes need, the chunk in hand is padded and the rest left out.
    """
    remaining = iter(sizes)
    chunk: Tensor | None = None
    border: Tensor | None = None  # a copy: a chunk that was handed over is not held here
    filled = 0
    for piece in pieces:
        while len(piece):
            if chunk is None:
                size = next(remaining, 0)
                if not size:
                    return
                chunk, filled = new((size, *piece.shape[1:])), 0
                if border is not None:
                    chunk[:1], filled = border, 1
            taken = piece[: len(chunk) - filled]
            chunk[filled : filled + len(taken)] = taken
            filled, piece = filled + len(taken), piece[len(taken) :]
            if filled == len(chunk):
                border = chunk[-1:].clone() if clock.window > 1 else None
                full, chunk = chunk, None
                yield full
                del full
    if chunk is not None:
        chunk[filled:] = chunk[filled - 1]
        yield chunk
