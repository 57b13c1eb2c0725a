"""A setting: a dataclass field with its default and its bounds."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, TypeVar

T = TypeVar("T")

SEED_MOST = 2**62  # seeds are counted up from, and torch's generators hold 64 bits
BOUNDS: dict[str, tuple[str, Callable[[Any, Any], bool]]] = {
    "at_least": ("at least", lambda value, bound: value >= bound),
    "above": ("above", lambda value, bound: value > bound),
    "at_most": ("at most", lambda value, bound: value <= bound),
    "below": ("below", lambda value, bound: value < bound),
    "choices": ("one of", lambda value, bound: value in bound),
}


def setting(
    default: T,
    *,
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    below: float | None = None,
    choices: Sequence[T] | None = None,
) -> T:
    """A dataclass field with a default and its bounds, which `load_config` and `validate` enforce."""
    bounds = {"at_least": at_least, "above": above, "at_most": at_most, "below": below, "choices": choices}
    metadata = {name: bound for name, bound in bounds.items() if bound is not None}
    return dataclasses.field(default=default, metadata=metadata)


@cache
def hints(schema: Any) -> dict[str, Any]:
    """The types of a dataclass's fields, by name."""
    return typing.get_type_hints(schema)
