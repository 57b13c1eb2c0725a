"""Dreamer 4-style agents from recordings of play, trained fast on one consumer GPU (or, smaller, on a CPU).

import fastdreamer

run = fastdreamer.open_run("runs/demo")     # see `fastdreamer.api`
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"
__all__ = ["__version__", "load_config", "open_run"]

_HOMES = {"load_config": "fastdreamer.config", "open_run": "fastdreamer.api"}


def __getattr__(name: str) -> Any:
    """What `_HOMES` names, loaded when it is first asked for: importing the package alone stays cheap."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
