"""What is timed. Nothing of ours is imported: the machine can be asked what it is whatever is broken."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


def _nothing() -> None:
    return None


@dataclass(frozen=True)
class Arm:
    """`run` is timed, on what `prepare` gave it, which is not."""

    run: Callable[[Any], Any]
    prepare: Callable[[], Any] = field(default=_nothing)
