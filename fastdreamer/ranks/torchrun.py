"""What torchrun says in the environment of every process that it starts. Nothing heavy is imported here."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import NamedTuple

NAMES = ("RANK", "LOCAL_RANK", "WORLD_SIZE")
RESTARTS = "TORCHELASTIC_RESTART_COUNT"
AGENT_STORE = "TORCHELASTIC_USE_AGENT_STORE"


class Place(NamedTuple):
    """This process among those that train together."""

    rank: int = 0
    world: int = 1


def place(environment: Mapping[str, str] = os.environ) -> Place:
    """This process's place; the only one of one where torchrun did not start several.

    A batch system sets some of the names for its own ends, so all must be there.
    """
    rank, _, world = (environment.get(name, "") for name in NAMES)
    if all(environment.get(name, "").isdigit() for name in NAMES) and int(world) > 1:
        return Place(int(rank), int(world))
    return Place()


def restarts(environment: Mapping[str, str] = os.environ) -> int:
    """How often torchrun has started its processes again."""
    told = environment.get(RESTARTS, "")
    return int(told) if told.isdigit() else 0
