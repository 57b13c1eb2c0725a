"""Shortest ways over Crafter's map for the scripted expert.

A map is a flat byte string with a border of `BLOCKED`, so that a neighbour is an addition and never leaves the map.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

BLOCKED, FREE, DIGGABLE, TARGET = 0, 1, 2, 3
_STRIDE = 66  # crafter's 64 and the border


class Way(NamedTuple):
    """A way to the nearest target: the first move, the number of moves, and where the target is."""

    move: int
    length: int
    x: int
    y: int


def flatten(semantic: UInt8[np.ndarray, "64 64"]) -> bytes:
    """The map with its border, as bytes; index `cell(x, y)`."""
    padded = np.zeros((_STRIDE, _STRIDE), np.uint8)
    padded[1:-1, 1:-1] = semantic
    return padded.tobytes()


def cell(x: int, y: int) -> int:
    """Index of the tile (x, y) in a flattened map."""
    return (x + 1) * _STRIDE + y + 1


MOVES = {(-1, 0): -_STRIDE, (1, 0): _STRIDE, (0, -1): -1, (0, 1): 1}  # direction -> step in a flattened map


def nearest(kinds: bytes, start: int, order: Sequence[int], reach: int) -> Way | None:
    """The shortest way from `start` to a tile marked `TARGET`, breadth first.

    Among equally short ways the first move that comes first in `order` wins, which is how a caller asks to keep
    going straight on. A `DIGGABLE` tile costs two moves: dig, step.

    Args:
        kinds: A flattened map of BLOCKED, FREE, DIGGABLE and TARGET.
        start: The cell to start from, whatever its kind.
        order: Moves (differences of cells), best first.
        reach: Moves after which to give up.
    """
    left = bytearray(kinds)  # what is still to be visited
    left[start] = BLOCKED
    now: list[tuple[int, int]] = [(start, 0)]  # cells at this distance, each with the first move that led there
    dug: list[tuple[int, int]] = []  # cells that the next round reaches by digging
    for length in range(1, reach + 1):
        following, dug = dug, []
        for here, first in now:
            for move in order:
                there = here + move
                kind = left[there]
                if not kind:
                    continue
                if kind == TARGET:
                    x, y = divmod(there, _STRIDE)
                    return Way(first or move, length, x - 1, y - 1)
                left[there] = BLOCKED
                (following if kind == FREE else dug).append((there, first or move))
        now = following
        if not now and not dug:
            return None
    return None
