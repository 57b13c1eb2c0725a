"""The VPT reader: right frame for right action, and what each line's keys, mouse and state become."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastdreamer.recordings import read as read_module
from fastdreamer.recordings.actions import action_space
from fastdreamer.recordings.bins import CAMERA
from fastdreamer.recordings.decode import decode_video
from fastdreamer.recordings.read import find_recordings, read_aligned, read_recording
from fastdreamer.recordings.recording import Aligned, DamagedRecording
from fastdreamer.recordings.trajectory import Trajectory
from recordings.fixtures import read_barcode, treechop_arrays, write_minerl_recording
from recordings.vpt_fixtures import Line, row_of_vpt, vpt_line, write_vpt_recording

VPT = action_space("vpt")
NAMES = [component.name for component in VPT.components]
LINES = 200


def read(root: Path, **options: bool) -> Aligned:
    (recording,) = find_recordings(root)
    return read_aligned(recording, VPT, **options)


def labels(root: Path, lines: list[Line]) -> list[dict[str, str]]:
    """What each line but the last does, without what is at its no-op; camera axes as bins."""
    write_vpt_recording(root, len(lines), change=lambda contents: contents.__setitem__(slice(None), lines))
    actions = read(root, frames=False).trajectory.actions
    return [
        {c.name: c.labels[label] for c, label in zip(VPT.components, row, strict=True) if label != c.noop}
        for row in actions
    ]


def assert_aligned(trajectory: Trajectory, steps: int) -> None:
    """Row i's action was taken at the frame with barcode i."""
    assert row_of_vpt(trajectory.actions, NAMES) == list(range(steps))
    assert [read_barcode(frame) for frame in trajectory.frames] == list(range(steps + 1))


def test_actions_belong_to_the_frames_they_were_taken_at(tmp_path: Path):
    write_vpt_recording(tmp_path, LINES)
    trajectory = read(tmp_path).trajectory
    assert_aligned(trajectory, LINES - 1)
    assert trajectory.labelled and not trajectory.rewarded
    assert trajectory.valid.all() and not trajectory.terminals.any() and not trajectory.rewards.any()


@pytest.mark.parametrize("shift", [-1, 1])
def test_the_alignment_check_sees_a_shift_of_one_frame(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shift: int):
    write_vpt_recording(tmp_path)
    monkeypatch.setattr(read_module, "decode_blocks", lambda path, *_: [np.roll(decode_video(path), shift, axis=0)])
    with pytest.raises(AssertionError):
        assert_aligned(read(tmp_path).trajectory, 39)


def test_a_recording_is_named_after_its_file_and_its_task_after_its_folder(tmp_path: Path):
    path = write_vpt_recording(tmp_path)
    (recording,) = find_recordings(tmp_path)
    assert (recording.name, recording.env, recording.format) == (path.stem, "8.0", "vpt")
    assert recording.path == path


@pytest.mark.parametrize(
    ("key", "action"),
    [
        ("w", "forward"),
        ("s", "back"),
        ("a", "left"),
        ("d", "right"),
        ("space", "jump"),
        ("left.shift", "sneak"),
        ("left.control", "sprint"),
        ("q", "drop"),
        ("e", "inventory"),
    ],
)
def test_keys_are_buttons(tmp_path: Path, key: str, action: str):
    assert labels(tmp_path, [vpt_line((key,)), vpt_line()]) == [{action: "1"}]


def test_mouse_buttons_are_attack_and_use(tmp_path: Path):
    lines = [vpt_line(buttons=buttons) for buttons in ([0], [1], [0, 1], [2], [])]
    expected = [{"attack": "1"}, {"use": "1"}, {"attack": "1", "use": "1"}, {}]
    assert labels(tmp_path, lines) == expected


def test_unknown_keys_are_nothing(tmp_path: Path):
    assert labels(tmp_path, [vpt_line(("f3", "f", "enter", "t")), vpt_line()]) == [{}]


def test_opposite_directions_cancel_and_others_stay(tmp_path: Path):
    lines = [vpt_line(keys) for keys in (("w", "s", "a"), ("a", "d", "w"), ("w", "a"), ())]
    assert labels(tmp_path, lines) == [{"left": "1"}, {"forward": "1"}, {"forward": "1", "left": "1"}]


def test_inventory_leaves_nothing_else(tmp_path: Path):
    lines = [vpt_line(("e", "w", "3"), dx=50, dy=-50, buttons=[0, 1]), vpt_line()]
    assert labels(tmp_path, lines) == [{"inventory": "1"}]


def test_escape_closes_a_window_like_inventory_and_is_nothing_without_one(tmp_path: Path):
    lines = [vpt_line(("escape",), isGuiOpen=True), vpt_line(("escape",)), vpt_line()]
    assert labels(tmp_path, lines) == [{"inventory": "1"}, {}]


def test_the_camera_is_pitch_then_yaw_at_015_degrees_a_pixel(tmp_path: Path):
    down, right = labels(tmp_path, [vpt_line(dy=11), vpt_line(dx=-4), vpt_line()])
    assert down == {"camera_pitch": "+1.609"} and right == {"camera_yaw": "-0.615"}


def test_camera_is_never_truncated_to_whole_degrees(tmp_path: Path):
    """The reference loader's integer camera would put 42 of the pixel deltas from -80 to 80 in another bin."""
    pixels = np.arange(-80, 81)
    truncated = CAMERA.encode(np.trunc(pixels * 0.15))
    lines = [vpt_line(dx=float(dx), dy=-float(dx)) for dx in pixels]
    write_vpt_recording(tmp_path, 162, change=lambda all_: all_.__setitem__(slice(161), lines))
    actions = read(tmp_path, frames=False).trajectory.actions
    yaw, pitch = (actions[:, NAMES.index(f"camera_{axis}")] for axis in ("yaw", "pitch"))
    assert (yaw != truncated).sum() == 42
    edges = np.array([0.271, 1.053, 2.317, 4.358, 7.655])
    expected = [5 + np.sign(dx) * (abs(dx) * 0.15 > edges).sum() for dx in pixels]
    assert yaw.tolist() == expected and pitch.tolist() == expected[::-1]


def test_stuck_attack_is_ignored_until_it_is_pressed_anew(tmp_path: Path):
    def change(lines: list[Any]) -> None:
        for row, line in enumerate(lines[:30]):
            line["mouse"] |= {"buttons": [0], "newButtons": [0] if row in (0, 20) else []}

    write_vpt_recording(tmp_path, change=change)
    aligned = read(tmp_path, frames=False)
    attack = aligned.trajectory.actions[:, NAMES.index("attack")]
    assert not attack[:20].any() and attack[20:30].all()
    assert aligned.mended == ("attack was stuck down at the start: left out of 20 lines",)


def test_attack_that_starts_with_another_button_is_no_stuck_one(tmp_path: Path):
    lines = [vpt_line(buttons=[0, 1], newButtons=[0, 1]), vpt_line(buttons=[0]), vpt_line()]
    assert labels(tmp_path, lines) == [{"attack": "1", "use": "1"}, {"attack": "1"}]


def test_hotbar_keys_are_the_slots(tmp_path: Path):
    lines = [vpt_line((str(slot),), hotbar=0) for slot in range(1, 10)]
    assert labels(tmp_path, [*lines, vpt_line()]) == [{"hotbar": str(slot)} for slot in range(1, 10)]


def test_the_wheels_slot_is_the_action_of_the_frame_before_the_change(tmp_path: Path):
    lines = [vpt_line(hotbar=slot) for slot in (2, 2, 3, 3, 8, 0, 0)]
    assert labels(tmp_path, lines) == [{}, {"hotbar": "4"}, {}, {"hotbar": "9"}, {"hotbar": "1"}, {}]


def test_a_change_that_a_key_explains_is_not_the_wheels(tmp_path: Path):
    """Whether the state shows it one line after the key or in the same one."""
    later = [vpt_line(("5",), hotbar=0), vpt_line(hotbar=4), vpt_line(hotbar=4)]
    at_once = [vpt_line(hotbar=0), vpt_line(("5",), hotbar=4), vpt_line(hotbar=4)]
    assert labels(tmp_path / "a", later) == [{"hotbar": "5"}, {}]
    assert labels(tmp_path / "b", at_once) == [{}, {"hotbar": "5"}]


def test_recordings_older_than_the_hotbar_have_none(tmp_path: Path):
    lines = [vpt_line() for _ in range(3)]
    for line in lines:
        del line["hotbar"]
    assert labels(tmp_path, lines) == [{}, {}]


@pytest.mark.parametrize("skip_null", [False, True])
def test_null_actions_go_only_after_decoding_and_with_their_frames(tmp_path: Path, skip_null: bool):
    null = {0, 5, 6, 7, 38}

    def change(lines: list[Any]) -> None:
        for row in null:
            lines[row] = vpt_line()

    write_vpt_recording(tmp_path, change=change)
    trajectory = read(tmp_path, skip_null=skip_null).trajectory
    kept = [row for row in range(39) if not (skip_null and row in null)]
    assert [read_barcode(frame) for frame in trajectory.frames] == [*kept, 39]
    assert row_of_vpt(trajectory.actions, NAMES) == [-1 if row in null else row for row in kept]


def test_nothing_but_null_actions_is_no_episode(tmp_path: Path):
    write_vpt_recording(tmp_path, 3, change=lambda lines: lines.__setitem__(slice(3), [vpt_line()] * 3))
    assert len(read(tmp_path).trajectory) == 3
    with pytest.raises(DamagedRecording, match="nothing is done in 2 steps"):
        read(tmp_path, skip_null=True)


def test_the_wrong_space_is_named_both_ways(tmp_path: Path):
    write_vpt_recording(tmp_path / "vpt")
    write_minerl_recording(tmp_path / "minerl", treechop_arrays(5))
    for folder, space, words in [
        ("vpt", "minerl_treechop", "VPT recording: .* data.env=vpt, not minerl_treechop"),
        ("minerl", "vpt", r"action\$use is missing for action space vpt"),
    ]:
        (recording,) = find_recordings(tmp_path / folder)
        with pytest.raises(DamagedRecording, match=words) as error:
            read_recording(recording, action_space(space))
        assert "\n" not in str(error.value)
