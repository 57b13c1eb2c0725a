"""A setting: a dataclass field with its default, its bounds, and whether it may change in a run that has begun."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any, Literal, NamedTuple, TypeVar

T = TypeVar("T")
Free = Literal["", "always", "before cloning"]
"""Times at which a setting may change in a run: never, always, or until phase 2 begins (phase 1 has no use for it)."""

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
    free: Free = "",
) -> T:
    """A dataclass field with a default and its bounds, which `load_config` and `validate` enforce.

    A run's latents, weights and losses must not depend on a setting that is `free`.
    """
    bounds = {"at_least": at_least, "above": above, "at_most": at_most, "below": below, "choices": choices}
    metadata = {name: bound for name, bound in bounds.items() if bound is not None}
    return dataclasses.field(default=default, metadata=metadata | {"free": free})


def section(schema: Callable[[], T], free: Free = "") -> T:
    """A field that is a section; `free` goes for each of its settings that does not say otherwise."""
    return dataclasses.field(default_factory=schema, metadata={"free": free})


class Declared(NamedTuple):
    """One setting as it is declared."""

    path: str  # dotted, as in `phase1.steps`
    field: dataclasses.Field[Any]
    free: Free


def declared(schema: Any, prefix: str = "", free: Free = "") -> Iterator[Declared]:
    """Every setting of a dataclass and of its sections, in order."""
    for field in dataclasses.fields(schema):
        path, own = f"{prefix}{field.name}", field.metadata.get("free") or free
        inner = hints(schema)[field.name]
        if dataclasses.is_dataclass(inner):
            yield from declared(inner, f"{path}.", own)
        else:
            yield Declared(path, field, own)


def free_settings(schema: Any, is_cloned: bool = True) -> frozenset[str]:
    """Dotted paths of what may change in a run that has begun; `is_cloned`: phase 2 has begun too."""
    allowed = ("always",) if is_cloned else ("always", "before cloning")
    return frozenset(setting.path for setting in declared(schema) if setting.free in allowed)


@cache
def hints(schema: Any) -> dict[str, Any]:
    """The types of a dataclass's fields, by name."""
    return typing.get_type_hints(schema)
