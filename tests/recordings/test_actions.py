"""Action spaces: the camera's bins, the string enums, what is refused, and the way back."""

from __future__ import annotations

import numpy as np
import pytest

from fastdreamer.errors import UserError
from fastdreamer.recordings.actions import SPACES, action_space
from fastdreamer.recordings.bins import CAMERA
from recordings.fixtures import navigate_arrays, obtain_arrays, treechop_arrays

CENTRES = [-10, -5.810, -3.215, -1.610, -0.615, 0, 0.615, 1.610, 3.215, 5.810, 10]
EDGES = [0.271, 1.053, 2.317, 4.358, 7.655]


def test_camera_centres_are_those_of_the_format():
    np.testing.assert_allclose(CAMERA.decode(np.arange(11)), CENTRES, atol=1e-3)
    assert CAMERA.encode(CAMERA.decode(np.arange(11))).tolist() == list(range(11))


def test_camera_changes_bin_at_the_edges_and_nowhere_else():
    for index, edge in enumerate(EDGES):
        below, above = CAMERA.encode([edge - 2e-3, edge + 2e-3])
        assert (below, above) == (5 + index, 6 + index)
        assert CAMERA.encode([-edge + 2e-3, -edge - 2e-3]).tolist() == [5 - index, 4 - index]
    assert np.unique(CAMERA.encode(np.linspace(-180, 180, 100_001))).tolist() == list(range(11))


def test_camera_keeps_fractions_of_a_degree():
    """Two mouse pixels are 0.3 degrees: a loader that truncates to whole degrees sees no movement."""
    assert CAMERA.encode(0.30) == 6 and CAMERA.encode(-0.30) == 4
    assert CAMERA.encode(1.05) == 6 and CAMERA.encode(1.06) == 7


def test_camera_clips_at_ten_degrees():
    assert CAMERA.encode([-180, -10, 10, 180]).tolist() == [0, 0, 10, 10]


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("crafter", (17,)),
        ("minerl_treechop", (2,) * 8 + (11, 11)),
        ("minerl_navigate", (2,) * 8 + (11, 11, 2)),
        ("minerl_obtain", (2,) * 8 + (11, 11, 7, 8, 5, 8, 3)),
    ],
)
def test_sizes_of_the_spaces(name: str, sizes: tuple[int, ...]):
    assert action_space(name).sizes == sizes


def test_noop_does_nothing():
    space = action_space("minerl_obtain")
    arrays = space.to_recording(np.array([space.noop], np.uint8))
    assert not arrays["action$camera"].any() and arrays["action$attack"] == [0]
    assert arrays["action$place"] == ["none"] and arrays["action$nearbySmelt"] == ["none"]


def test_crafter_actions_are_in_the_games_own_order():
    crafter = pytest.importorskip("crafter")
    assert list(action_space("crafter").components[0].labels) == crafter.Env(seed=0).action_names


@pytest.mark.parametrize("name", list(SPACES))
def test_actions_survive_the_way_through_a_recording(name: str):
    space = action_space(name)
    actions = np.random.default_rng(0).integers(0, space.sizes, (200, len(space.sizes))).astype(np.uint8)
    arrays = space.to_recording(actions)
    assert all(array.dtype.kind in "iUf" for array in arrays.values())
    np.testing.assert_array_equal(space.from_recording(arrays), actions)


def test_buttons_and_enums_land_in_their_own_columns():
    space = action_space("minerl_obtain")
    actions = space.from_recording(obtain_arrays(20))
    names = [component.name for component in space.components]
    assert actions.dtype == np.uint8 and actions.shape == (20, 15)
    for name, row, label in [("place", 6, "torch"), ("equip", 5, "iron_pickaxe"), ("nearbyCraft", 3, "furnace")]:
        column = names.index(name)
        assert space.components[column].labels[actions[row, column]] == label
        assert actions[0, column] == 0
    assert actions[:, names.index("back")].tolist() == [i >> 1 & 1 for i in range(20)]
    assert actions[3, names.index("camera_pitch")] == 3 and actions[3, names.index("camera_yaw")] == 6


@pytest.mark.parametrize("dialect", [3, 4])
def test_both_dialects_give_the_same_actions(dialect: int):
    for name, arrays in [("minerl_obtain", obtain_arrays), ("minerl_navigate", navigate_arrays)]:
        expected = action_space(name).from_recording(arrays(12, 3))
        np.testing.assert_array_equal(action_space(name).from_recording(arrays(12, dialect)), expected)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("action$place", np.array(["none", "bedrock"]), ["action$place", "bedrock"]),
        ("action$attack", np.array([0, 2]), ["action$attack", "'2'"]),
        ("action$attack", np.array([0, 0.5]), ["action$attack", "0.5"]),
        ("action$place", np.array([0, 1]), ["action$place", "'0'"]),
        ("action$camera", np.array([0.0, 1.0]), ["action$camera", "(2,)"]),
        ("action$camera", np.array([[0.0, np.nan], [0, 0]]), ["action$camera", "finite"]),
        ("action$jump", np.array([0, 1, 1]), ["differ in length", "action$jump 3"]),
        ("action$use", np.array([0, 1]), ["action$use", "minerl_obtain"]),
    ],
)
def test_a_wrong_array_is_refused_by_key_and_value(key: str, value: np.ndarray, words: list[str]):
    with pytest.raises(UserError) as error:
        action_space("minerl_obtain").from_recording({**obtain_arrays(2), key: value})
    assert all(word in str(error.value) for word in words), error.value


def test_missing_arrays_and_unknown_spaces_are_named():
    arrays = treechop_arrays(2)
    with pytest.raises(UserError, match=r"action\$place is missing for action space minerl_navigate"):
        action_space("minerl_navigate").from_recording(arrays)
    with pytest.raises(UserError, match="'atari'.*crafter"):
        action_space("atari")


def test_an_unknown_array_that_is_never_used_is_no_reason_to_refuse():
    arrays = {**treechop_arrays(2), "action$use": np.zeros(2, int), "action$place": np.array(["none", "none"])}
    assert action_space("minerl_treechop").from_recording(arrays).shape == (2, 10)


def test_fingerprints_differ_and_are_stable():
    prints = {name: space.fingerprint for name, space in SPACES.items()}
    assert len(set(prints.values())) == len(SPACES) and all(len(print_) == 16 for print_ in prints.values())
    assert prints["crafter"] == action_space("crafter").fingerprint
