from __future__ import annotations

from collections.abc import Callable

import pytest

from fastdreamer.envs.crafter import CrafterEnv

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
