"""The mouse cursor, drawn into frames that were recorded without it."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, UInt8

WINDOW_HEIGHT = 720  # pixels of the recorded game's window, in which the mouse is reported
HEIGHT_SHARE = 16 / 360  # the share of the frame's height: 16 pixels where it is 360, as in Minecraft's own window


def draw_cursor(frame: UInt8[np.ndarray, "h w 3"], x: float, y: float) -> None:
    """Draw an arrow, white with a black rim, into `frame`, its tip at the mouse's place in the window, cut at the rims.

    Source: VPT's loader puts its cursor at (x, y) * frame height / 720 as well; the arrow is ours.
    """
    height, width = frame.shape[:2]
    size = max(round(height * HEIGHT_SHARE), 2)
    left, top = int(x * height / WINDOW_HEIGHT), int(y * height / WINDOW_HEIGHT)
    rows, columns = slice(max(top, 0), max(top + size, 0)), slice(max(left, 0), max(left + size, 0))
    part = frame[rows, columns]
    cut = (slice(max(-top, 0), max(-top, 0) + part.shape[0]), slice(max(-left, 0), max(-left, 0) + part.shape[1]))
    part[_arrow(size, 0.0)[cut]] = 0
    part[_arrow(size, 1.2)[cut]] = 255


def _arrow(size: int, rim: float) -> Bool[np.ndarray, "size size"]:
    """The pixels of a triangle with its tip in the upper left corner that are at least `rim` pixels inside."""
    v, u = np.mgrid[:size, :size] + 0.5
    return np.asarray((u >= rim) & (v - u >= rim * 2**0.5 - 0.5) & (v + 0.45 * u <= size - rim))
