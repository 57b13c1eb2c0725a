"""A stand-in for minerl 0.4.4 under old gym: ObtainDiamond's and Treechop's interface, and no Minecraft behind it.

Its spaces follow `simple_embodiment.py`, `obtain_specs.py` and `spaces.py` of minerl 0.4.4: an Enum's `values` are
sorted, its no-op is the default `none`, and actions take the strings.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

BUTTONS = ("forward", "left", "back", "right", "jump", "sneak", "sprint", "attack")
TOOLS = ("wooden_axe", "wooden_pickaxe", "stone_axe", "stone_pickaxe", "iron_axe", "iron_pickaxe")
OBTAIN = {
    "place": ("none", "dirt", "stone", "cobblestone", "crafting_table", "furnace", "torch"),
    "equip": ("none", "air", *TOOLS),
    "craft": ("none", "torch", "stick", "planks", "crafting_table"),
    "nearbyCraft": ("none", *TOOLS, "furnace"),
    "nearbySmelt": ("none", "iron_ingot", "coal"),
}
TASKS: dict[str, dict[str, tuple[str, ...]]] = {"MineRLTreechop-v0": {}, "MineRLObtainDiamond-v0": OBTAIN}


class Task:
    def __init__(self, enums: dict[str, tuple[str, ...]]) -> None:
        spaces: dict[str, Any] = {key: SimpleNamespace(n=2) for key in BUTTONS}
        spaces["camera"] = SimpleNamespace(shape=(2,))
        spaces |= {name: SimpleNamespace(values=np.array(sorted(enum)), n=len(enum)) for name, enum in enums.items()}
        noop = (
            {key: np.array(0) for key in BUTTONS} | {"camera": np.zeros(2, np.float32)} | dict.fromkeys(enums, "none")
        )
        self.action_space = SimpleNamespace(spaces=spaces, no_op=lambda: dict(noop))
        self.enums = enums

    def seed(self, seed: int) -> None:
        self.world = seed

    def reset(self) -> dict[str, Any]:
        self.tick = 0
        return self._observe()

    def step(self, action: dict[str, Any]) -> tuple[dict[str, Any], float, bool, dict[str, Any]]:
        assert set(action) == set(self.action_space.spaces)
        assert all(isinstance(action[name], str) and action[name] in enum for name, enum in self.enums.items())
        self.tick += 1
        self.last = action
        is_over = self.tick == 5
        return self._observe(), float(action["attack"]), is_over, {"TimeLimit.truncated": True} if is_over else {}

    def _observe(self) -> dict[str, Any]:
        frame = np.full((64, 64, 3), self.world % 256, np.uint8)[::-1]  # upside down in memory, as the real one's
        inventory = {"log": np.array(self.tick // 2), "dirt": np.array(0)}
        return {"pov": frame, "inventory": inventory} if self.enums else {"pov": frame}

    def close(self) -> None: ...


def make(name: str) -> Task:
    return Task(TASKS[name])
