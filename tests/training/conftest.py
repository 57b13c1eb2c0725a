"""A run directory with a synthetic store, and the debug configuration in fp32."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from fastdreamer.config import Config
from fastdreamer.data.actions import action_space
from fastdreamer.data.synthetic import write_synthetic_store
from fastdreamer.settings import load_config

SMALL = [
    "device=cpu",
    "precision=fp32",
    "data.recordings=/nonexistent",
    "phase1.steps=6",
    "phase1.checkpoint_every=3",
    "phase2.steps=6",
    "phase2.checkpoint_every=3",
    "phase3.steps=4",
    "phase3.checkpoint_every=2",
    "dynamics.dim=16",
    "imagination.horizon=2",
]


@pytest.fixture(scope="session")
def small() -> Callable[..., Config]:
    """The debug preset, smaller still, with overrides."""
    return lambda *overrides: load_config("debug", [*SMALL, *overrides])


@pytest.fixture
def new_run(tmp_path: Path) -> Callable[[Config, str], Path]:
    """Makes a run directory with a synthetic store."""

    def make(config: Config, name: str = "run") -> Path:
        run_dir = tmp_path / name
        space = action_space(config.data.env)
        write_synthetic_store(run_dir / "store", config.tokenizer.clock, space, episodes=3, steps=12, seed=0)
        return run_dir

    return make
