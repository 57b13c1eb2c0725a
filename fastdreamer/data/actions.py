"""Action spaces as named categorical components, and their translation from and to a recording's arrays.

An action is one label index a component, uint8: Crafter has one component of 17 labels, MineRL has a component a
button (labels 0 and 1), two mu-law camera axes and the string enums of its task. Every label list starts with its
no-op, except the camera's, whose no-op is the middle bin.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from numpy.typing import ArrayLike, NDArray

from fastdreamer.errors import UserError

CAMERA_CLIP = 10.0  # degrees; a larger change in one step counts as this
CAMERA_MU = 10.0
CAMERA_BINS = 11

CRAFTER_ACTIONS = (
    "noop", "move_left", "move_right", "move_up", "move_down", "do", "sleep", "place_stone", "place_table",
    "place_furnace", "place_plant", "make_wood_pickaxe", "make_stone_pickaxe", "make_iron_pickaxe", "make_wood_sword",
    "make_stone_sword", "make_iron_sword",
)  # fmt: skip
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


def _expand(compressed: NDArray[np.float64]) -> NDArray[np.float64]:
    """From the mu-law scale in [-1, 1] to degrees."""
    return CAMERA_CLIP * np.sign(compressed) * ((1.0 + CAMERA_MU) ** np.abs(compressed) - 1.0) / CAMERA_MU


# The bins are equally wide on the mu-law scale, and the outermost centres sit on the clip itself.
_SCALE = np.linspace(-1.0, 1.0, CAMERA_BINS)
CAMERA_CENTRES = _expand(_SCALE)
CAMERA_EDGES = _expand((_SCALE[1:] + _SCALE[:-1]) / 2.0)


def encode_camera(degrees: float | ArrayLike) -> NDArray[np.uint8]:
    """Degrees of one step's pitch or yaw change to one of 11 mu-law bins (mu 10, clip 10), as floats throughout.

    Source: VPT (arXiv:2206.11795), appendix on the action space; its loader truncates to whole degrees first, which
    puts slow mouse movement in the wrong bin, so that step is left out on purpose.
    """
    return np.asarray(np.searchsorted(CAMERA_EDGES, np.asarray(degrees, np.float64)), np.uint8)


def decode_camera(bins: int | ArrayLike) -> NDArray[np.float64]:
    """Camera bins to their centres in degrees."""
    return np.asarray(CAMERA_CENTRES[np.asarray(bins, np.int64)])


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
        return self.size // 2 if self.camera_axis is not None else 0

    @property
    def key(self) -> str:
        """The recording's array that holds this component."""
        return "action$camera" if self.camera_axis is not None else f"action${self.name}"

    @property
    def camera_axis(self) -> int | None:
        """Which column of `action$camera` this is (0 pitch, 1 yaw), or None."""
        return {"camera_pitch": 0, "camera_yaw": 1}.get(self.name)

    def read(self, array: NDArray[Any]) -> NDArray[np.uint8]:
        """One recording array (rows,) or (rows, 2) to label indices (rows,).

        Raises:
            UserError: naming the key and the value that is no label, not finite, or of the wrong shape.
        """
        if self.camera_axis is not None:
            if array.ndim != 2 or array.shape[1] != 2 or array.dtype.kind not in "fiu":
                raise UserError(f"{self.key} is {array.dtype} of shape {array.shape}; it must be numbers (rows, 2)")
            if not np.isfinite(array).all():
                raise UserError(f"{self.key} holds a value that is not finite: the recording is damaged")
            return encode_camera(array[:, self.camera_axis])
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
        """Number of labels a component."""
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
        for key in present:
            if key not in keys and not _is_idle(arrays[key]):
                raise UserError(f"{key} is used but unknown to action space {self.name}; choose another data.env")
        lengths = {key: len(arrays[key]) if arrays[key].ndim else 0 for key in keys}
        if len(set(lengths.values())) != 1:
            raise UserError("action arrays differ in length: " + ", ".join(f"{k} {n}" for k, n in lengths.items()))
        return np.stack([component.read(arrays[component.key]) for component in self.components], axis=1)

    def to_recording(self, actions: UInt8[np.ndarray, "s k"]) -> dict[str, NDArray[Any]]:
        """Label indices to the arrays of a recording: buttons int64, camera float32 degrees, enums strings."""
        assert actions.ndim == 2 and actions.shape[1] == len(self.components), actions.shape
        arrays: dict[str, NDArray[Any]] = {}
        for column, component in zip(actions.T, self.components, strict=True):
            axis = component.camera_axis
            if axis is not None:
                camera: Float[np.ndarray, "s 2"] = arrays.setdefault(
                    component.key, np.zeros((len(actions), 2), np.float32)
                )
                camera[:, axis] = decode_camera(column)
            elif component.labels == ("0", "1"):
                arrays[component.key] = column.astype(np.int64)
            else:
                arrays[component.key] = np.array(component.labels)[column.astype(np.int64)]
        return arrays


def _is_idle(array: NDArray[Any]) -> bool:
    return bool(np.all(array == "none")) if array.dtype.kind in "US" else not np.any(array)


def _minerl(name: str, enums: Mapping[str, tuple[str, ...]]) -> ActionSpace:
    camera = tuple(f"{centre:+.3f}" for centre in CAMERA_CENTRES)
    components = [Component(button, ("0", "1")) for button in BUTTONS]
    components += [Component("camera_pitch", camera), Component("camera_yaw", camera)]
    components += [Component(key, labels) for key, labels in enums.items()]
    return ActionSpace(name, tuple(components))


SPACES: dict[str, ActionSpace] = {
    space.name: space
    for space in (
        ActionSpace("crafter", (Component("action", CRAFTER_ACTIONS),)),
        _minerl("minerl_treechop", {}),
        _minerl("minerl_navigate", NAVIGATE_ENUMS),
        _minerl("minerl_obtain", OBTAIN_ENUMS),
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
