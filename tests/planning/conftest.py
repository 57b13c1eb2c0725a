"""A model that is small, yet large beside the 512 bytes that allocations are rounded to."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from fastdreamer.config import Config, load_config

SMALL = (
    "device=cpu",
    "dynamics.dim=128",
    "dynamics.layers=2",
    "dynamics.heads=4",
    "dynamics.kv_heads=2",
    "dynamics.window=8",
    "dynamics.context=8",
    "heads.hidden=256",
    "forcing.boot_fraction=0.5",
    "forcing.boot_warmup=0",
    "imagination.horizon=5",
    *(f"phase{number}.batch_size=6" for number in (1, 2, 3)),
)


@pytest.fixture
def small() -> Callable[..., Config]:
    """The debug preset with a model of 128 channels, and overrides."""
    return lambda *overrides: load_config("debug", [*SMALL, *overrides])
