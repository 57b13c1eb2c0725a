from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fastdreamer.envs.crafter import CrafterEnv

from .pretend import Machine, forget_stand_ins

World = Callable[[int, int], CrafterEnv]


@pytest.fixture(scope="session")
def world() -> World:
    """An environment of (seed, max_steps) to reset; its world is made once (0.8 s) and shared by all tests."""
    made: dict[int, CrafterEnv] = {}

    def get(seed: int, max_steps: int) -> CrafterEnv:
        env = made.setdefault(seed, CrafterEnv(seed, max_steps))
        env.max_steps = max_steps
        return env

    return get


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    """A machine with Java, a display and Minecraft's files, on which a test installs the stand-ins it wants."""
    forget_stand_ins()
    yield Machine(tmp_path / "machine", monkeypatch)
    forget_stand_ins()
