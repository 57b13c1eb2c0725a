"""The run-time type checker of the tests: beartype, for every function whose annotations it can check."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from beartype import beartype
from beartype.roar import BeartypeDecorHintPep3119Exception


def check(function: Callable[..., Any]) -> Callable[..., Any]:
    """Checks arguments and result on each call.

    A Protocol needs @runtime_checkable, else functions that take one go unchecked.
    """
    try:
        return beartype(function)
    except BeartypeDecorHintPep3119Exception:
        return function
