"""Action spaces as named categorical components, and their translation from and to a recording's arrays.

An action is one label index a component, uint8: Crafter has one component of 17 labels, MineRL has a component a
button (labels 0 and 1), two mu-law camera axes and the string enums of its task. Every label list starts with its
no-op, except those of binned numbers (camera, obfuscated vector), whose no-op is the bin of zero.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import UInt8
from numpy.typing import NDArray

from fastdreamer.errors import UserError
from fastdreamer.recordings.bins import COLUMNS, Column

# What can be done in each environment family, as its recordings write it. Every enum starts with its no-op. Order and
# spelling are part of a store's fingerprint: add, but never change them.
CRAFTER_ACTIONS = (
    "noop", "move_left", "move_right", "move_up", "move_down", "do", "sleep", "place_stone", "place_table",
    "place_furnace", "place_plant", "make_wood_pickaxe", "make_stone_pickaxe", "make_iron_pickaxe", "make_wood_sword",
    "make_stone_sword", "make_iron_sword",
)  # fmt: skip
BUTTON = ("0", "1")
BUTTONS = ("forward", "back", "left", "right", "jump", "sneak", "sprint", "attack")
_TOOLS = ("wooden_axe", "wooden_pickaxe", "stone_axe", "stone_pickaxe", "iron_axe", "iron_pickaxe")
NAVIGATE_ENUMS = {"place": ("none", "dirt")}
OBTAIN_ENUMS = {
    "place": ("none", "dirt", "stone", "cobblestone", "crafting_table", "furnace", "torch"),
    "equip": ("none", "air", *_TOOLS),
    "craft": ("none", "torch", "stick", "planks", "crafting_table"),
    "nearbyCraft": ("none", *_TOOLS, "furnace"),
    "nearbySmelt": ("none", "iron_ingot", "coal"),
}

# BASALT 2021 (MineRL 0.4): Treechop's buttons and camera, `use`, and `equip`; no inventory, drop or hotbar. Source:
# minerl.herobraine.env_specs.basalt_specs, whose default items serve FindCave, MakeWaterfall and CreateVillageAnimalPen
# and whose village inventory serves BuildVillageHouse (with `#metadata` where one name has variants). One space for
# all four. BASALT 2022 recordings have VPT's format.
_BASALT_ITEMS = (
    "air", "bucket", "carrot", "cobblestone", "fence", "fence_gate", "snowball", "stone_pickaxe", "stone_shovel",
    "water_bucket", "wheat", "wheat_seeds",
)  # fmt: skip
_VILLAGE_ITEMS = (
    "acacia_door", "acacia_fence", "cactus", "dirt", "flower_pot", "glass", "ladder", "log#0", "log#1", "log2#0",
    "planks#0", "planks#1", "planks#4", "red_flower", "sand", "sandstone#0", "sandstone#2", "sandstone_stairs",
    "spruce_door", "spruce_fence", "stone_axe", "stone_stairs", "torch", "wooden_door", "wooden_pressure_plate",
)  # fmt: skip
BASALT_ENUMS = {"use": BUTTON, "equip": ("none", *_BASALT_ITEMS, *_VILLAGE_ITEMS, "other")}

# VPT's keys, without ESC, swapHands and pickItem, which its own action space leaves out as well (arXiv:2206.11795).
VPT_BUTTONS = (
    "attack", "back", "forward", "jump", "left", "right", "sneak", "sprint", "use", "drop", "inventory",
)  # fmt: skip
VPT_ENUMS = {"hotbar": ("none", *(str(slot) for slot in range(1, 10)))}


@dataclass(frozen=True)
class Component:
    """One categorical choice of an action: its name and the names of its values."""

    name: str
    labels: tuple[str, ...]

    @property
    def size(self) -> int:
        """How many values the component has."""
        return len(self.labels)

    @property
    def noop(self) -> int:
        """The value that does nothing."""
        return self.column.bins.noop if self.column is not None else 0

    @property
    def key(self) -> str:
        """The recording's array that holds this component."""
        return self.column.key if self.column is not None else f"action${self.name}"

    @property
    def column(self) -> Column | None:
        """Columns and bins of the component's numbers, or None if the array holds its values by name."""
        return COLUMNS.get(self.name)

    @property
    def camera_axis(self) -> int | None:
        """Column of `action$camera` that this is (0 pitch, 1 yaw), or None."""
        return self.column.index if self.column is not None and self.column.key == "action$camera" else None

    def read(self, array: NDArray[Any]) -> UInt8[np.ndarray, " rows"]:
        """One recording array (rows,), or (rows, columns) of which this is one, to label indices (rows,).

        Raises:
            UserError: naming the key and the value that is no label, not finite, or of the wrong shape.
        """
        if (column := self.column) is not None:
            if array.ndim != 2 or array.shape[1] != column.width or array.dtype.kind not in "fiu":
                wanted = f"numbers (rows, {column.width})"
                raise UserError(f"{self.key} is {array.dtype} of shape {array.shape}; it must be {wanted}")
            if not np.isfinite(array).all():
                raise UserError(f"{self.key} holds a value that is not finite: the recording is damaged")
            return column.bins.encode(array[:, column.index])
        if array.ndim != 1:
            raise UserError(f"{self.key} has shape {array.shape}; it must have one value a row")
        values, inverse = np.unique(array, return_inverse=True)
        table = np.array([self._index(value) for value in values], np.uint8)
        return table[inverse.reshape(-1)]

    def _index(self, value: Any) -> int:
        whole = isinstance(value, np.number | np.bool_) and float(value).is_integer()
        text = str(int(value)) if whole else str(value)
        if text not in self.labels:
            raise UserError(f"{self.key} holds {text!r}, which is none of its known values: {', '.join(self.labels)}")
        return self.labels.index(text)


@dataclass(frozen=True)
class ActionSpace:
    """The components of an environment's action, in the order of the action array's columns."""

    name: str
    components: tuple[Component, ...]

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of labels of each component."""
        return tuple(component.size for component in self.components)

    @property
    def noop(self) -> tuple[int, ...]:
        """The action that does nothing."""
        return tuple(component.noop for component in self.components)

    @cached_property
    def fingerprint(self) -> str:
        """16 hex characters that change with any component, label or their order."""
        content = [self.name, [[component.name, component.labels] for component in self.components]]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]

    def from_recording(self, arrays: Mapping[str, NDArray[Any]]) -> UInt8[np.ndarray, "s k"]:
        """The `action$...` arrays of a recording to label indices, one row a step.

        Raises:
            UserError: a key is missing, arrays differ in length, a value is unknown, or the recording uses an action
                that this space does not have (it would be lost silently).
        """
        keys = list(dict.fromkeys(component.key for component in self.components))
        present = sorted(key for key in arrays if key.startswith("action$"))
        missing = [key for key in keys if key not in arrays]
        if missing:
            raise UserError(f"{missing[0]} is missing for action space {self.name}; there are: {', '.join(present)}")
        for key in (key for key in present if key not in keys):
            is_text = arrays[key].dtype.kind in "US"
            if np.any(arrays[key] != "none" if is_text else arrays[key]):
                raise UserError(f"{key} is used but unknown to action space {self.name}; choose another data.env")
        lengths = {key: len(arrays[key]) if arrays[key].ndim else 0 for key in keys}
        if len(set(lengths.values())) != 1:
            raise UserError("action arrays differ in length: " + ", ".join(f"{k} {n}" for k, n in lengths.items()))
        return np.stack([component.read(arrays[component.key]) for component in self.components], axis=1)

    def to_recording(self, actions: UInt8[np.ndarray, "s k"]) -> dict[str, NDArray[Any]]:
        """Label indices to the arrays of a recording: buttons int64, binned numbers float32, enums strings."""
        assert actions.ndim == 2 and actions.shape[1] == len(self.components), actions.shape
        arrays: dict[str, NDArray[Any]] = {}
        for labels, component in zip(actions.T, self.components, strict=True):
            if (column := component.column) is not None:
                shape = (len(actions), column.width)
                table = arrays.setdefault(component.key, np.zeros(shape, np.float32))
                table[:, column.index] = column.bins.decode(labels)
            elif component.labels == BUTTON:
                arrays[component.key] = labels.astype(np.int64)
            else:
                arrays[component.key] = np.array(component.labels)[labels.astype(np.int64)]
        return arrays


def _binned(prefix: str) -> tuple[Component, ...]:
    return tuple(Component(name, c.bins.labels) for name, c in COLUMNS.items() if name.startswith(prefix))


def _minecraft(name: str, buttons: Iterable[str], enums: Mapping[str, tuple[str, ...]]) -> ActionSpace:
    keys = (Component(button, BUTTON) for button in buttons)
    values = (Component(key, labels) for key, labels in enums.items())
    return ActionSpace(name, (*keys, *_binned("camera"), *values))


SPACES: dict[str, ActionSpace] = {
    space.name: space
    for space in (
        ActionSpace("crafter", (Component("action", CRAFTER_ACTIONS),)),
        _minecraft("minerl_treechop", BUTTONS, {}),
        _minecraft("minerl_navigate", BUTTONS, NAVIGATE_ENUMS),
        _minecraft("minerl_obtain", BUTTONS, OBTAIN_ENUMS),
        _minecraft("minerl_basalt", BUTTONS, BASALT_ENUMS),
        ActionSpace("minerl_vector", _binned("vector")),
        _minecraft("vpt", VPT_BUTTONS, VPT_ENUMS),
    )
}


def action_space(name: str) -> ActionSpace:
    """The action space of an environment family, by the name that `data.env` takes.

    Raises:
        UserError: for a name that is none of them.
    """
    if name not in SPACES:
        raise UserError(f"there is no action space {name!r}; known are {', '.join(SPACES)}")
    return SPACES[name]
