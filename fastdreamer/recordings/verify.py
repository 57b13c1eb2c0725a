"""Proof that another decoder shows the frames that PyAV shows: a few frames of a file, compared once.

DALI documents that NVDEC may return wrong frames of long and open GOPs in silence. Two right decoders still differ in
colour: they round differently and place the halved chroma differently. So means of 4x4 pixels are compared, and a
frame must not only be near the reference's but nearer to it than to the reference's neighbours: between consecutive
frames of a slow clip there is less than between two decoders.
"""

from __future__ import annotations

import hashlib

import numpy as np
from jaxtyping import Float, Int, UInt8

RUNS, RUN = 5, 3  # runs of consecutive frames: each frame needs a neighbour to be told from
BLOCK = 4  # pixels: two chroma samples a side in 4:2:0, so that their placement moves the means little
# Of 255, mean absolute difference of block means. Rounding, chroma placement and a gain of 1 % together stay below 4; a
# full range taken for a limited one is off by 16 at black and 20 at white.
BOUND = 8.0
# Of 255, root mean square difference of block means: two frames that differ by less cannot be told apart. Rounding
# makes about 0.1 of it.
TOLD_APART = 0.25
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)


def sample_numbers(count: int) -> Int[np.ndarray, " k"]:
    """Numbers of the frames that are compared: ascending, at most 15, in runs of three from the first to the last."""
    if count <= RUNS * RUN:
        return np.arange(count)
    starts = np.linspace(0, count - RUN, RUNS).round().astype(np.int64)
    return np.unique(starts[:, None] + np.arange(RUN))


def sampled_sha256(frames: UInt8[np.ndarray, "k h w 3"]) -> str:
    """SHA-256 over the sampled frames' shape and bytes, as hexadecimal."""
    digest = hashlib.sha256(repr(frames.shape).encode())
    digest.update(np.ascontiguousarray(frames).data)
    return digest.hexdigest()


def disagreement(
    numbers: Int[np.ndarray, " k"], reference: UInt8[np.ndarray, "k h w 3"], found: UInt8[np.ndarray, "k2 h2 w2 3"]
) -> str:
    """How `found` contradicts `reference`, in one line; empty if they show the same.

    Args:
        numbers: `sample_numbers` of the reference's frames.
        reference: PyAV's frames of those numbers.
        found: another decoder's, counted from its last frame: where it has e frames more (or, with e < 0, fewer), its
            frames number + e.
    """
    if reference.shape != found.shape:
        return f"its sampled frames are {found.shape}, not {reference.shape}"
    means, others = _block_means(reference), _block_means(found)
    for i, number in enumerate(numbers):
        error = float(np.abs(others[i] - means[i]).mean())
        if error > BOUND:
            return f"frame {number} differs by {error:.1f} of 255 (at most {BOUND:g})"
        if _is_nearer(others[i], means[i], means[i][..., ::-1]):
            return f"frame {number} has red and blue swapped"
        for j in (i - 1, i + 1):
            is_neighbour = 0 <= j < len(numbers) and abs(numbers[j] - number) == 1
            # Luma, for that is where two decoders agree; without its mean, for a constant offset is no movement.
            lumas = [x @ _LUMA for x in (others[i], means[i], means[j])] if is_neighbour else []
            if is_neighbour and _is_nearer(*(luma - luma.mean() for luma in lumas)):
                return f"frame {number} shows frame {numbers[j]}"
    return ""


def _is_nearer(found: Float[np.ndarray, "*x"], right: Float[np.ndarray, "*x"], wrong: Float[np.ndarray, "*x"]) -> bool:
    """Whether `found` is nearer to `wrong` than to `right`, if those two can be told apart."""
    if np.sqrt(np.square(wrong - right).mean()) < TOLD_APART:
        return False
    return bool(np.square(found - wrong).sum() < np.square(found - right).sum())


def _block_means(frames: UInt8[np.ndarray, "k h w 3"]) -> Float[np.ndarray, "k y x 3"]:
    k, rows, columns = len(frames), frames.shape[1] // BLOCK, frames.shape[2] // BLOCK
    whole = frames[:, : rows * BLOCK, : columns * BLOCK]
    return np.asarray(whole.reshape(k, rows, BLOCK, columns, BLOCK, 3).mean((2, 4), dtype=np.float32))
