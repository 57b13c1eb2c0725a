"""How work that is under way gives way to a key."""

from __future__ import annotations

from collections.abc import Callable

IsSuperseded = Callable[[], bool]
"""Whether something more urgent waits; asked on the way, from the worker."""


class Superseded(Exception):
    """Something more urgent is asked for; what was begun is not done."""


def never() -> bool:
    """Nothing is more urgent."""
    return False
