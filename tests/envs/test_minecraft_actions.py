"""Actions to a simulator's dict: every label of every component can be read off it, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from envs import stand_in_minerl, stand_in_minestudio
from fastdreamer.envs.minecraft_actions import ActionTranslator, Keys, read_keys
from fastdreamer.errors import UserError
from fastdreamer.recordings.actions import ActionSpace, Component, action_space

MINESTUDIO = read_keys(
    stand_in_minestudio.MinecraftSim(action_type="env", obs_size=(64, 64), render_size=(64, 64)).action_space.spaces
)
NOOP = {key: np.zeros(2, np.float32) if key == "camera" else 0 for key in MINESTUDIO}
OBTAIN = stand_in_minerl.make("MineRLObtainDiamond-v0")
VPT = action_space("vpt")


def every_label(space: ActionSpace) -> list[np.ndarray]:
    """The no-op with each label of each component in turn, and 50 random actions."""
    actions = []
    for column, component in enumerate(space.components):
        for label in range(component.size):
            action = np.array(space.noop, np.uint8)
            action[column] = label
            actions.append(action)
    chance = np.random.default_rng(0)
    return actions + [chance.integers(0, space.sizes).astype(np.uint8) for _ in range(50)]


def read_back(space: ActionSpace, keys: Keys, left_out: tuple[str, ...], action: dict[str, object]) -> np.ndarray:
    """The label indices of a simulator's action dict; what is left out comes back as its no-op."""
    arrays = {f"action${key}": np.asarray([action[key]]) for key in keys if key in action}
    noop = space.to_recording(np.array([space.noop], np.uint8))
    for component in space.components:
        if component.name in left_out:
            arrays.setdefault(component.key, noop[component.key])
        elif component.name == "hotbar" and "hotbar" not in keys:
            slots = [label for label in component.labels if label != "none"]
            (pressed,) = [slot for slot in slots if arrays.pop(f"action$hotbar.{slot}").any()] or ["none"]
            arrays[component.key] = np.array([pressed])
    return space.from_recording(arrays)[0]


@pytest.mark.parametrize(
    ("space", "keys", "noop", "left_out"),
    [
        (action_space("minerl_treechop"), MINESTUDIO, NOOP, ()),
        (VPT, MINESTUDIO, NOOP, ("drop",)),
        (VPT, {**MINESTUDIO, "drop": ("0", "1")}, {**NOOP, "drop": 0}, ()),
        (action_space("minerl_obtain"), read_keys(OBTAIN.action_space.spaces), OBTAIN.action_space.no_op(), ()),
    ],
)
def test_every_label_survives_the_way_there_and_back(
    space: ActionSpace, keys: Keys, noop: dict[str, object], left_out: tuple[str, ...]
) -> None:
    translator = ActionTranslator(space, keys, "the simulator", left_out)
    idle = [column for column, component in enumerate(space.components) if component.name in left_out]
    for action in every_label(space):
        translated = translator.to_simulator(action, noop)
        assert set(translated) == set(noop)
        wanted = action.copy()
        wanted[idle] = np.array(space.noop)[idle]
        assert np.array_equal(read_back(space, keys, left_out, translated), wanted), (action, translated)


def test_the_simulators_own_words_for_an_action() -> None:
    names = [component.name for component in VPT.components]
    action = np.array(VPT.noop, np.uint8)
    for name, label in {"attack": 1, "hotbar": 3, "camera_pitch": 0, "camera_yaw": 7}.items():
        action[names.index(name)] = label
    translated = ActionTranslator(VPT, MINESTUDIO, "MineStudio", ("drop",)).to_simulator(action, NOOP)
    assert {key for key in MINESTUDIO if key != "camera" and translated[key]} == {"attack", "hotbar.3"}
    assert translated["camera"].dtype == np.float32
    assert translated["camera"] == pytest.approx([-10.0, 1.610], abs=1e-3)
    assert NOOP["hotbar.3"] == 0 and not NOOP["camera"].any(), "the no-op itself must not change"
    obtain = action_space("minerl_obtain")
    crafted = np.array(obtain.noop, np.uint8)
    crafted[[component.name for component in obtain.components].index("nearbyCraft")] = 2
    keys = read_keys(OBTAIN.action_space.spaces)
    translated = ActionTranslator(obtain, keys, "minerl").to_simulator(crafted, OBTAIN.action_space.no_op())
    assert translated["nearbyCraft"] == "wooden_pickaxe" and type(translated["nearbyCraft"]) is str


@pytest.mark.parametrize(
    ("space", "left_out", "message"),
    [
        (VPT, (), r"MineStudio has no action for drop \(drop\) of vpt: set evaluation.leave_out=\[drop\]"),
        (action_space("minerl_navigate"), (), r"for place \(none, dirt\) of minerl_navigate"),
        (action_space("minerl_obtain"), ("place",), r"for equip .* evaluation.leave_out=\[place,equip\]"),
        (VPT, ("dropp",), r"evaluation.leave_out: vpt has no 'dropp'; it has attack,"),
        (ActionSpace("other", (Component("hotbar", ("none", "10")),)), (), r"for hotbar \(hotbar.10\)"),
    ],
)
def test_what_a_simulator_does_not_know_is_refused(space: ActionSpace, left_out: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        ActionTranslator(space, MINESTUDIO, "MineStudio", left_out)
    assert "\n" not in str(caught.value)


def test_an_enums_unknown_label_is_refused() -> None:
    keys = {"camera": (), "place": ("none", "dirt")}
    space = ActionSpace("some", (Component("place", ("none", "dirt", "torch")),))
    with pytest.raises(UserError, match=r"no action for place \(torch\)"):
        ActionTranslator(space, keys, "minerl")
