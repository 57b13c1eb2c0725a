"""Frames as PNG files; no imaging package is needed for that."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8
from numpy import ndarray

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def png(image: UInt8[ndarray, "h w 3"]) -> bytes:
    """An RGB image as a file."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width, _ = image.shape
    rows = np.zeros((height, 1 + width * 3), dtype=np.uint8)  # each row opens with its filter: 0, none
    rows[:, 1:] = np.ascontiguousarray(image).reshape(height, -1)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        PNG_SIGNATURE + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows.tobytes(), 9)) + chunk(b"IEND", b"")
    )


def strip(frames: Sequence[UInt8[ndarray, "h w 3"]]) -> UInt8[ndarray, "h w 3"]:
    """Frames side by side, left to right."""
    return np.concatenate(list(frames), axis=1)
