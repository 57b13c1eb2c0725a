"""Videos in MineRL's layout that lost frames: the count may still agree with the rows, the rows' frames do not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fastdreamer.recordings.actions import action_space
from fastdreamer.recordings.read import find_recordings, read_recording
from fastdreamer.recordings.recording import DamagedRecording
from recordings.fixtures import read_barcode, row_of, treechop_arrays, write_minerl_recording
from recordings.test_alignment import encode

STEPS = 60
TREECHOP = action_space("minerl_treechop")


def hole(at: int, lost: int = 5) -> dict[str, Any]:
    """A video without the frames before `at`, which is the next one that is there."""
    return {"times": lambda i: i + lost * (i >= at)}


def read(root: Path, frames: bool = True, **how: bool):
    (recording,) = find_recordings(root)
    return read_recording(recording, TREECHOP, frames=frames, **how)


@pytest.mark.parametrize("frames", [True, False])
@pytest.mark.parametrize(
    ("at", "place"), [(40, r"frame 39 \(1.95 s\)"), (11, r"frame 10 \(0.50 s\)"), (70, "frame 69")]
)
@pytest.mark.parametrize("how", [{}, {"check_metadata": False}])
def test_a_hole_behind_spare_leading_frames_is_set_aside_with_its_place(
    tmp_path: Path, frames: bool, at: int, place: str, how: dict[str, bool]
):
    write_minerl_recording(tmp_path, treechop_arrays(STEPS), extra=10, **hole(at))
    with pytest.raises(DamagedRecording, match=f"5 frames are missing after {place}"):
        read(tmp_path, frames, **how)


@pytest.mark.parametrize("at", [1, 5, 10])
def test_a_hole_among_the_spare_frames_moves_no_row(tmp_path: Path, at: int):
    write_minerl_recording(tmp_path, treechop_arrays(STEPS), extra=10, **hole(at))
    trajectory = read(tmp_path)
    assert [read_barcode(frame) for frame in trajectory.frames] == list(range(10, 11 + STEPS))
    assert row_of(trajectory.actions).tolist() == list(range(STEPS))


def test_a_hole_without_spare_frames_is_set_aside_too(tmp_path: Path):
    write_minerl_recording(tmp_path, treechop_arrays(STEPS), **hole(30, lost=1))
    with pytest.raises(DamagedRecording, match="1 frames are missing after frame 29"):
        read(tmp_path)


def test_a_frame_that_came_twice_is_set_aside(tmp_path: Path):
    """One too many somewhere behind, so the rows before it are off the other way."""
    times = lambda i: 4 * i - (3 if i == 30 else 0) - (4 if i > 30 else 0)  # noqa: E731
    write_minerl_recording(tmp_path, treechop_arrays(STEPS), extra=10, times=times)
    with pytest.raises(DamagedRecording, match="two frames have the time of frame 29"):
        read(tmp_path)


def uneven(number: int) -> int:
    return number + number // 3


def test_a_variable_rate_needs_a_count_that_proves_it_whole(tmp_path: Path):
    folder = write_minerl_recording(tmp_path, treechop_arrays(STEPS), extra=10, times=uneven)
    assert row_of(read(tmp_path).actions).tolist() == list(range(STEPS))
    content = json.loads((folder / "metadata.json").read_text())
    del content["true_video_frame_count"]
    (folder / "metadata.json").write_text(json.dumps(content))
    with pytest.raises(
        DamagedRecording, match="no true_video_frame_count to prove that none is missing.*check_metadata"
    ):
        read(tmp_path)
    assert [read_barcode(frame) for frame in read(tmp_path, check_metadata=False).frames][0] == 10


def test_a_variable_rate_without_spare_frames_needs_none(tmp_path: Path):
    write_minerl_recording(tmp_path, treechop_arrays(STEPS), metadata=False, times=uneven)
    assert len(read(tmp_path)) == STEPS + 1


def test_encode_sets_it_aside_and_goes_on(tmp_path: Path):
    write_minerl_recording(tmp_path / "recordings", treechop_arrays(STEPS), extra=10, **hole(40))
    write_minerl_recording(tmp_path / "recordings", treechop_arrays(STEPS), number=1)
    encode(tmp_path / "recordings", tmp_path / "store", "c1", "pyav-torch")
    manifest = json.loads((tmp_path / "store" / "manifest.json").read_text())
    assert len(manifest["episodes"]) == 1
    (reason,) = manifest["skipped"].values()
    assert "5 frames are missing after frame 39" in reason
