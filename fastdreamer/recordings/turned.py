"""Videos that are to be shown turned or mirrored (phones, editors): the pixels as a player shows them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from av.sidedata.sidedata import Type
from jaxtyping import UInt8

from fastdreamer.recordings.containers import DamagedVideo

_ONE = 1 << 16  # the matrix is 16.16 fixed point
_LEAST = 0.99  # entries that are nearly 0 or 1 are rounding's


@dataclass(frozen=True)
class Turn:
    """Rows and columns change places, or not; then either is mirrored, or not."""

    is_transposed: bool = False
    mirrors_columns: bool = False
    mirrors_rows: bool = False

    def __call__(self, pixels: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h2 w2 3"]:
        if self.is_transposed:
            pixels = pixels.transpose(1, 0, 2)
        return pixels[:: -1 if self.mirrors_rows else 1, :: -1 if self.mirrors_columns else 1]

    def __bool__(self) -> bool:
        return self.is_transposed or self.mirrors_columns or self.mirrors_rows


def turn_of(path: Path, frame: Any) -> Turn:
    """What a frame's display matrix says: (x, y) is shown at (a x + c y, b x + d y), up to a shift.

    Raises:
        DamagedVideo: if it is none of the eight turns that keep pixels whole.
    """
    found = frame.side_data.get(Type.DISPLAYMATRIX)
    if found is None:
        return Turn()
    a, b, _, c, d = (float(x) / _ONE for x in np.frombuffer(bytes(found), np.int32)[:5])
    is_straight, is_transposed = (
        all(abs(abs(x) - 1) < 1 - _LEAST for x in ones) and all(abs(x) < 1 - _LEAST for x in zeros)
        for ones, zeros in (((a, d), (b, c)), ((b, c), (a, d)))
    )
    if not is_straight and not is_transposed:
        raise DamagedVideo(
            f"{path}: it is to be shown turned by {frame.rotation} degrees, scaled or skewed; only quarter turns and "
            "mirrors are read"
        )
    return Turn(is_transposed, (c if is_transposed else a) < 0, (b if is_transposed else d) < 0)
