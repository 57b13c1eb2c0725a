"""Safetensors files, whole or in parts, by plain reads: no map is held, of which a system allows a process 65,530.

Format: 8 bytes with the header's length, a JSON header that gives each tensor's type, shape and place, and the bytes.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor

from fastdreamer.system.json_files import parse

_TYPES = {
    "F16": torch.float16, "F32": torch.float32, "F64": torch.float64, "BOOL": torch.bool, "U8": torch.uint8,
    "I8": torch.int8, "I16": torch.int16, "I32": torch.int32, "I64": torch.int64,
}  # fmt: skip
_FIRST, _LONGEST_HEADER = 4096, 1 << 20  # bytes


class _Place(NamedTuple):
    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int  # byte of the file
    size: int  # bytes


@dataclass(frozen=True, slots=True)
class TensorFile:
    """A file that was checked.

    Attributes:
        path: its place.
        identity: what tells it from one that was put in its place, or changed: see `identity_of`.
    """

    path: str
    identity: tuple[int, int]

    def read(self, names: Iterable[str], rows: slice = slice(None)) -> list[Tensor]:
        """Some rows (a slice of step 1) of the tensors of these names, which are copies.

        Raises:
            OSError, ValueError, KeyError: if it cannot be read, is not the file that was checked, or lacks a tensor.
        """
        handle = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            about = os.fstat(handle)
            if identity_of(about) != self.identity:
                raise ValueError("it changed after it was checked")
            head = os.pread(handle, _FIRST, 0)
            needed = 8 + min(int.from_bytes(head[:8], "little"), _LONGEST_HEADER)
            places = _places(head if len(head) >= needed else os.pread(handle, needed, 0), about.st_size)
            return [_read(handle, places[name], rows) for name in names]
        finally:
            os.close(handle)


def identity_of(about: os.stat_result) -> tuple[int, int]:
    """Size and time of change of a file; not its number, which some file systems give anew at each look."""
    return about.st_size, about.st_mtime_ns


def tensors_of(data: bytes) -> dict[str, Tensor]:
    """All tensors of a file's bytes, which are copies.

    Raises:
        ValueError: if the bytes are no such file.
    """
    return {
        name: _tensor(bytearray(data[place.start : place.start + place.size]), place.dtype, place.shape)
        for name, place in _places(data, len(data)).items()
    }


def _places(head: bytes, size: int) -> dict[str, _Place]:
    """The tensors' places by a file's first bytes; `size`: of the file."""
    length = int.from_bytes(head[:8], "little")
    if len(head) < 8 or not 2 <= length <= min(len(head) - 8, _LONGEST_HEADER):
        raise ValueError(f"its header cannot have {length:,} bytes")
    header = parse(head[8 : 8 + length])
    if not isinstance(header, dict):
        raise ValueError("its header is no JSON object")
    places = {}
    for name, said in header.items():
        if name == "__metadata__":
            continue
        try:
            dtype, shape, (start, end) = _TYPES[said["dtype"]], tuple(said["shape"]), said["data_offsets"]
            is_right = all(type(number) is int and 0 <= number <= size for number in (*shape, start, end))
        except (KeyError, TypeError, ValueError):
            is_right = False
        if not is_right or end - start != prod(shape) * dtype.itemsize or 8 + length + end > size:
            raise ValueError(f"its header says of {name[:40]!r} what cannot be")
        places[name] = _Place(dtype, shape, 8 + length + start, end - start)
    return places


def _read(handle: int, place: _Place, rows: slice) -> Tensor:
    first, last, _ = rows.indices(place.shape[0])
    row, count = place.size // max(1, place.shape[0]), max(0, last - first)
    data, done = bytearray(count * row), 0
    while done < len(data):  # a read gives 2 GiB at most
        if not (got := os.preadv(handle, [memoryview(data)[done:]], place.start + first * row + done)):
            raise ValueError("it ends too early")
        done += got
    return _tensor(data, place.dtype, (count, *place.shape[1:]))


def _tensor(data: bytearray, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    return torch.frombuffer(data, dtype=dtype).view(shape) if data else torch.empty(shape, dtype=dtype)
