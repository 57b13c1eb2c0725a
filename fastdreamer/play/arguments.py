"""What a page asks for, checked: one line says what is wrong with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int
from numpy import ndarray

from fastdreamer.errors import UserError
from fastdreamer.recordings.actions import ActionSpace

_SHOWN = 40


def whole(name: str, value: object) -> int:
    """A whole number from 0 on.

    Raises:
        UserError: naming what it is instead.
    """
    if type(value) is not int or not 0 <= value < 2**53:
        raise UserError(f"{name} is {shown(value)}; it must be a whole number from 0 on")
    return value


def action_of(space: ActionSpace, action: Sequence[int] | None) -> Int[ndarray, " k"]:
    """A label's number a component; None is the no-op.

    Raises:
        UserError: if it is no action of the space.
    """
    if action is None:
        return np.array(space.noop, np.int64)
    is_list = isinstance(action, Sequence) and not isinstance(action, str | bytes)
    if not is_list or len(action) != len(space.sizes):
        raise UserError(f"an action of {space.name} is a list of {len(space.sizes)} numbers")
    for value, component in zip(action, space.components, strict=True):
        if type(value) is not int or not 0 <= value < component.size:
            most = component.size - 1
            raise UserError(f"{component.name} is {shown(value)}; it must be a whole number from 0 to {most}")
    return np.array(action, np.int64)


def check_choice(
    said: Mapping[str, Any], who: object = None, greedy: object = None, denoising: object = None, task: object = None
) -> None:
    """Refuse what `describe` does not offer; None is no choice.

    Raises:
        UserError: naming what is not there.
    """
    if who is not None and who not in said["players"]:
        raise UserError(f"nobody here is called {shown(who)}; players are {', '.join(said['players'])}")
    if greedy is not None and not isinstance(greedy, bool):
        raise UserError(f"greedy is {shown(greedy)}; it must be true or false")
    if denoising is not None and (type(denoising) is not int or denoising not in said["denoising"]):
        known = ", ".join(map(str, said["denoising"]))
        raise UserError(f"denoising is {shown(denoising)}; the steps that this model was trained for are {known}")
    if task is not None and whole("task", task) >= len(said["tasks"]):
        raise UserError(f"there is no task {shown(task)}: the agent has {len(said['tasks'])} TASK tokens")


def shown(value: object) -> str:
    """A value in a line: short, and in plain characters."""
    text = ascii(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
