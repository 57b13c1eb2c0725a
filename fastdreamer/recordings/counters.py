"""How counters are kept in files: under which names a recording has them, and as integers no wider than they need be.

A recording in MineRL's layout has an array of (t,) for each in `rendered.npz`, a row a frame:

    observation$inventory$<item>        the counter <item>: how many of it the player carries (MineRL's own)
    observation$achievement$<name>      the counter achievement.<name>: how often it was reached (ours)

Recording workers import this: it needs no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Integer
from numpy.typing import NDArray

from fastdreamer.errors import UserError
from fastdreamer.recordings.tasks import ACHIEVEMENT, Counters

ITEM_KEY = "observation$inventory$"
ACHIEVEMENT_KEY = "observation$achievement$"
# Signed: the difference of two that are not negative then fits as well.
TYPES = (np.int8, np.int16, np.int32)
MOST = np.iinfo(TYPES[-1]).max


def compact(values: Integer[np.ndarray, "*x"]) -> Integer[np.ndarray, "*x"]:
    """The same numbers, 0 to `MOST`, in the narrowest of `TYPES`."""
    most = values.max(initial=0)
    return values.astype(next(kind for kind in TYPES if most <= np.iinfo(kind).max))


def total_gain(values: Integer[np.ndarray, " t"]) -> int:
    """Sum of all rises of a counter over an episode."""
    return int(np.maximum(np.diff(values.astype(np.int64)), 0).sum())


def to_arrays(counters: Counters) -> dict[str, Integer[np.ndarray, " t"]]:
    """The arrays of a recording that hold these counters."""
    return {_key(name): compact(values) for name, values in counters.items()}


def from_arrays(arrays: Mapping[str, NDArray[Any]]) -> dict[str, Integer[np.ndarray, " t"]]:
    """The counters among a recording's arrays, whose keys are in the v4 dialect.

    Raises:
        UserError: if one of them is no list of whole numbers from 0 on.
    """
    counters = {}
    for key, values in arrays.items():
        name = _name(key)
        if name is None:
            continue
        if values.ndim != 1 or values.dtype.kind not in "biuf":
            raise UserError(f"{key} is {values.dtype} of shape {values.shape}; a counter must be whole numbers (rows,)")
        good = (values >= 0) & (values <= MOST) & (values == np.floor(values))
        if not good.all():
            row = int(np.flatnonzero(~good)[0])
            raise UserError(f"{key} is {values[row]} in row {row}; a counter must be a whole number from 0 to {MOST}")
        counters[name] = compact(values.astype(np.int64))
    return counters


def _key(name: str) -> str:
    return ACHIEVEMENT_KEY + name.removeprefix(ACHIEVEMENT) if name.startswith(ACHIEVEMENT) else ITEM_KEY + name


def _name(key: str) -> str | None:
    for start, prefix in ((ITEM_KEY, ""), (ACHIEVEMENT_KEY, ACHIEVEMENT)):
        if key.startswith(start):
            return prefix + key.removeprefix(start).replace("$", ".")
    return None
