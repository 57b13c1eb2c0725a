"""Actions of an `ActionSpace` as a Minecraft simulator's action dict, exactly.

Simulators of the MineRL family take a dict: a 0 or 1 a key, `camera` as (pitch, yaw) degrees of this step, the hotbar
as nine keys `hotbar.1` to `hotbar.9`, and, in minerl 0.4, strings for craft, place, equip and smelt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8

from fastdreamer.errors import UserError
from fastdreamer.recordings.actions import ActionSpace, Component

BUTTON = ("0", "1")
CAMERA = "camera"
HOTBAR = "hotbar"

Keys = Mapping[str, tuple[str, ...]]  # what a simulator takes: BUTTON, the strings of an enum, () for the camera


def read_keys(spaces: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """The keys of a simulator's dict of gym or Gymnasium spaces that an `ActionSpace` can have: see `Keys`.

    Others (`chat`, `voxels`, `mobs` are commands to the simulator, not play) are left out.
    """
    keys: dict[str, tuple[str, ...]] = {}
    for name, space in spaces.items():
        if name == CAMERA:
            keys[name] = ()
        elif hasattr(space, "values"):  # minerl's Enum
            keys[name] = tuple(str(value) for value in space.values)
        elif getattr(space, "n", None) == len(BUTTON):
            keys[name] = BUTTON
    return keys


class ActionTranslator:
    """Label indices to a simulator's action dict.

    Args:
        space: the actions of the recordings.
        keys: what the simulator takes.
        simulator: its name, for messages.
        leave_out: components that stay at their no-op, whatever is asked: the user's word that this is wanted.

    Raises:
        UserError: for a component or a label that the simulator does not know and that is not left out.
    """

    def __init__(self, space: ActionSpace, keys: Keys, simulator: str, leave_out: Sequence[str] = ()) -> None:
        self.space, self.keys = space, keys
        names = [component.name for component in space.components]
        for name in leave_out:
            if name not in names:
                raise UserError(f"evaluation.leave_out: {space.name} has no {name!r}; it has {', '.join(names)}")
        self._played = [component for component in space.components if component.name not in leave_out]
        for component in self._played:
            unknown = [key for key in self._needed(component) if key not in self._known(component)]
            if unknown:
                raise UserError(
                    f"{simulator} has no action for {component.name} ({', '.join(unknown)}) of {space.name}: set "
                    f"evaluation.leave_out=[{','.join([*leave_out, component.name])}] to play without it, or choose "
                    "another evaluation.backend"
                )

    def to_simulator(self, action: UInt8[np.ndarray, " k"], noop: Mapping[str, Any]) -> dict[str, Any]:
        """`noop` with the action's components set: ints, camera float32 (2,) degrees (bin centres), strings."""
        action = np.asarray(action, np.uint8)
        assert (action < self.space.sizes).all(), (action, self.space.sizes)
        arrays, result = self.space.to_recording(action[None]), dict(noop)
        for component in self._played:
            value = arrays[component.key][0]
            if component.camera_axis is not None:
                camera = np.array(result[CAMERA], np.float32)
                camera[component.camera_axis] = value[component.camera_axis]
                result[CAMERA] = camera
            elif self._is_hotbar(component):
                result.update({key: int(key == f"{HOTBAR}.{value}") for key in self._needed(component)})
            else:
                result[component.name] = int(value) if component.labels == BUTTON else str(value)
        return result

    def _is_hotbar(self, component: Component) -> bool:
        return component.name == HOTBAR and HOTBAR not in self.keys

    def _needed(self, component: Component) -> tuple[str, ...]:
        """What the simulator must know to play this component: keys, or labels of an enum."""
        if component.camera_axis is not None:
            return (CAMERA,)
        if self._is_hotbar(component):
            return tuple(f"{HOTBAR}.{label}" for label in component.labels if label != "none")
        return (component.name,) if component.labels == BUTTON else component.labels

    def _known(self, component: Component) -> Sequence[str]:
        is_enum = component.camera_axis is None and component.labels != BUTTON and not self._is_hotbar(component)
        return self.keys.get(component.name, ()) if is_enum else list(self.keys)
