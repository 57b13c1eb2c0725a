"""The spaces of all environments: fingerprints, the way through a recording, BASALT, the obfuscated vector, VPT."""

from __future__ import annotations

import dataclasses
import typing
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastdreamer.config import DataConfig
from fastdreamer.errors import UserError
from fastdreamer.recordings import read as read_module
from fastdreamer.recordings.actions import SPACES, action_space
from fastdreamer.recordings.bins import CAMERA, VECTOR
from fastdreamer.recordings.decode import decode_video
from fastdreamer.recordings.read import find_recordings, guess_space, read_recording
from fastdreamer.recordings.trajectory import Trajectory
from recordings.fixtures import read_barcode, row_of, treechop_arrays, write_minerl_recording

STEPS = 40
FINGERPRINTS = {
    "crafter": "1c9d405dcf59abd8",
    "minerl_treechop": "69bd71e2883676a7",
    "minerl_navigate": "e09fde66bcd22c8b",
    "minerl_obtain": "74038b84112c857b",
    "minerl_basalt": "6486f14eb2aa47b3",
    "minerl_vector": "b5b12ec1ec5dc868",
    "vpt": "a815d104643cf427",
}


def basalt_arrays(steps: int) -> dict[str, np.ndarray]:
    """`rendered.npz` of a BASALT demonstration: no reward."""
    rows = np.arange(steps)
    arrays = treechop_arrays(steps) | {"reward": np.zeros(steps, np.float32)}
    items = np.array(["none", "snowball", "water_bucket", "planks#4", "other"])
    arrays |= {"action$use": (rows % 3 == 2).astype(np.int64), "action$equip": items[rows % 5]}
    return arrays | {"observation$equipped_items$mainhand$type": np.full(steps + 1, "air")}


def vector_arrays(steps: int) -> dict[str, np.ndarray]:
    """`rendered.npz` of a VectorObf demonstration; column j of row i is positive where bit j mod 16 of i is set."""
    rows, columns = np.arange(steps)[:, None], np.arange(64)[None]
    signs = 2.0 * (rows >> columns % 16 & 1) - 1
    vector = (signs * (0.06 + 0.99 * columns / 63)).astype(np.float32)
    observed = np.zeros((steps + 1, 64), np.float32)
    return {"reward": np.zeros(steps, np.float32), "action$vector": vector, "observation$vector": observed}


def row_of_vector(actions: np.ndarray) -> list[int]:
    """The rows that `vector_arrays` wrote, which all four groups of 16 columns must say."""
    groups = ((actions.astype(int) > 10).reshape(-1, 4, 16) << np.arange(16)).sum(2)
    assert (groups == groups[:, :1]).all()
    return groups[:, 0].tolist()


def test_fingerprints_are_those_of_the_stores_that_are_there():
    assert {name: space.fingerprint for name, space in SPACES.items()} == FINGERPRINTS


def test_every_env_of_the_configuration_has_a_space_and_the_reverse():
    (field,) = [field for field in dataclasses.fields(DataConfig) if field.name == "env"]
    assert set(field.metadata["choices"]) == set(SPACES)


@pytest.mark.parametrize("name", list(SPACES))
def test_every_label_of_every_component_survives_the_way_through_a_recording(name: str):
    space = action_space(name)
    rows = [
        [label if i == column else noop for i, noop in enumerate(space.noop)]
        for column, size in enumerate(space.sizes)
        for label in range(size)
    ]
    actions = np.array(rows, np.uint8)
    np.testing.assert_array_equal(space.from_recording(space.to_recording(actions)), actions)


@settings(max_examples=60)
@given(st.sampled_from(list(SPACES)), st.integers(0, 30), st.randoms(use_true_random=False))
def test_any_actions_survive_the_way_through_a_recording(name: str, rows: int, random: typing.Any):
    space = action_space(name)
    actions = np.array([[random.randrange(size) for size in space.sizes] for _ in range(rows)], np.uint8)
    actions = actions.reshape(rows, len(space.sizes))
    np.testing.assert_array_equal(space.from_recording(space.to_recording(actions)), actions)


@given(st.floats(-200, 200))
def test_a_camera_bin_is_that_of_the_nearest_centre_on_the_mu_law_scale(degrees: float):
    def compress(value: np.ndarray | float) -> np.ndarray:
        return np.sign(value) * np.log1p(10 * np.minimum(np.abs(value), 10) / 10) / np.log(11)

    distances = np.abs(compress(CAMERA.decode(np.arange(11))) - compress(degrees))
    assert distances[CAMERA.encode(degrees)] <= distances.min() + 1e-9


def test_the_bins_of_the_vector_are_equally_wide_and_hold_its_whole_range():
    assert VECTOR.centres[0] == -1 and VECTOR.centres[-1] == 1 and len(VECTOR.centres) == 21
    values = np.linspace(-1.05, 1.05, 10_001)
    assert np.abs(VECTOR.decode(VECTOR.encode(values)) - values).max() <= 0.05 + 1e-9
    assert VECTOR.encode([-3.0, -0.049, 0.0, 0.049, 3.0]).tolist() == [0, 10, 10, 10, 20]
    space = action_space("minerl_vector")
    assert space.noop == (10,) * 64 and not space.to_recording(np.array([space.noop], np.uint8))["action$vector"].any()


@pytest.mark.parametrize("shape", [(5, 63), (5,), (5, 64, 1)])
def test_a_vector_of_another_shape_is_refused(shape: tuple[int, ...]):
    with pytest.raises(UserError, match=r"action\$vector is float64 .*\(rows, 64\)"):
        action_space("minerl_vector").from_recording({"action$vector": np.zeros(shape)})


def read(root: Path, name: str) -> Trajectory:
    (recording,) = find_recordings(root)
    assert guess_space(recording).name == name
    return read_recording(recording, action_space(name))


def assert_vector_aligned(trajectory: Trajectory) -> None:
    numbers = [read_barcode(frame) - 3 for frame in trajectory.frames]
    assert numbers == list(range(STEPS + 1)) and row_of_vector(trajectory.actions) == numbers[:-1]


def test_obfuscated_recordings_are_read_with_the_right_frames(tmp_path: Path):
    write_minerl_recording(tmp_path, vector_arrays(STEPS), extra=3, hidden=5, env="MineRLTreechopVectorObf-v0")
    trajectory = read(tmp_path, "minerl_vector")
    assert_vector_aligned(trajectory)
    values = VECTOR.decode(trajectory.actions)
    assert np.abs(values - vector_arrays(STEPS)["action$vector"]).max() <= 0.05 + 1e-6


@pytest.mark.parametrize("shift", [-1, 1])
def test_a_shift_of_one_frame_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shift: int):
    monkeypatch.setattr(read_module, "decode_blocks", lambda path, *_: [np.roll(decode_video(path), shift, axis=0)])
    write_minerl_recording(tmp_path / "vector", vector_arrays(STEPS), extra=3)
    with pytest.raises(AssertionError):
        assert_vector_aligned(read(tmp_path / "vector", "minerl_vector"))
    write_minerl_recording(tmp_path / "basalt", basalt_arrays(STEPS), extra=3)
    with pytest.raises(AssertionError):
        assert_basalt_aligned(read(tmp_path / "basalt", "minerl_basalt"))


def assert_basalt_aligned(trajectory: Trajectory) -> None:
    numbers = [read_barcode(frame) - 3 for frame in trajectory.frames]
    assert numbers == list(range(STEPS + 1)) and row_of(trajectory.actions).tolist() == numbers[:-1]


def test_basalt_recordings_are_read_with_the_right_frames(tmp_path: Path):
    write_minerl_recording(tmp_path, basalt_arrays(STEPS), extra=3, env="MineRLBasaltMakeWaterfall-v0")
    trajectory = read(tmp_path, "minerl_basalt")
    assert_basalt_aligned(trajectory)
    space = action_space("minerl_basalt")
    names = [component.name for component in space.components]
    equip = [space.components[names.index("equip")].labels[label] for label in trajectory.actions[:5, -1]]
    assert equip == ["none", "snowball", "water_bucket", "planks#4", "other"]
    assert trajectory.actions[:6, names.index("use")].tolist() == [0, 0, 1, 0, 0, 1]


def test_basalt_has_no_rewards_and_treechop_without_logs_has_some(tmp_path: Path):
    write_minerl_recording(tmp_path / "basalt", basalt_arrays(STEPS))
    write_minerl_recording(tmp_path / "treechop", treechop_arrays(STEPS) | {"reward": np.zeros(STEPS, np.float32)})
    assert not read(tmp_path / "basalt", "minerl_basalt").rewarded
    assert read(tmp_path / "treechop", "minerl_treechop").rewarded


def test_vpts_components_are_its_own_without_what_cannot_be_recorded():
    space = action_space("vpt")
    assert [component.name for component in space.components] == [
        *("attack", "back", "forward", "jump", "left", "right", "sneak", "sprint", "use", "drop", "inventory"),
        *("camera_pitch", "camera_yaw", "hotbar"),
    ]
    assert space.sizes == (2,) * 11 + (11, 11, 10)
