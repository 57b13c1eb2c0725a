"""Counters in the latent store: one tensor of (t, j) an episode, the j names in its entry of the manifest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Integer
from torch import Tensor

from fastdreamer.recordings.counters import compact


def as_tensor(counters: Mapping[str, Integer[Tensor, " t"]]) -> Integer[Tensor, "t j"]:
    """The store's tensor, a column a counter in the mapping's order."""
    return torch.from_numpy(compact(np.stack([values.numpy() for values in counters.values()], 1)))


def from_tensor(table: Integer[Tensor, "t j"], names: Sequence[str], frames: int) -> dict[str, Integer[Tensor, " t"]]:
    """The counters of `as_tensor`, as views of its columns.

    Raises:
        ValueError: if it is not of that many frames and names.
    """
    if table.shape != (frames, len(names)) or table.is_floating_point():
        raise ValueError(f"counters are {table.dtype} {tuple(table.shape)}, not integers ({frames}, {len(names)})")
    return dict(zip(names, table.unbind(1), strict=True))
