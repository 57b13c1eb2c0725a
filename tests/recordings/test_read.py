"""Recordings of all formats under one root: found, named, and each read with its own rules."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fastdreamer.errors import UserError
from fastdreamer.recordings import read as read_module
from fastdreamer.recordings.actions import action_space
from fastdreamer.recordings.decode import decode_video
from fastdreamer.recordings.read import find_incomplete, find_recordings, guess_space, read_labels, read_recording
from fastdreamer.recordings.recording import Recording
from fastdreamer.recordings.trajectory import Trajectory
from recordings.fixtures import read_barcode, row_of, treechop_arrays, write_minerl_recording
from recordings.video_fixtures import write_video
from recordings.vpt_fixtures import row_of_vpt, write_vpt_recording

STEPS = 40
NAMES = [component.name for component in action_space("vpt").components]
FORMATS = ("minerl", "vpt", "video")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """One recording of each format."""
    write_minerl_recording(tmp_path, treechop_arrays(STEPS), extra=7, hidden=33)
    write_vpt_recording(tmp_path, STEPS + 1)
    (tmp_path / "walks").mkdir()
    write_video(tmp_path / "walks" / "walk.mp4", STEPS + 1)
    return tmp_path


def one(root: Path, kind: str) -> Recording:
    (recording,) = [recording for recording in find_recordings(root) if recording.format == kind]
    return recording


def assert_aligned(trajectory: Trajectory, kind: str) -> None:
    """Frame i is the i-th that belongs to the episode, and row i's action says i."""
    first = 7 if kind == "minerl" else 0
    assert [read_barcode(frame) for frame in trajectory.frames] == list(range(first, first + STEPS + 1))
    if kind == "minerl":
        assert row_of(trajectory.actions).tolist() == list(range(STEPS))
    if kind == "vpt":
        assert row_of_vpt(trajectory.actions, NAMES) == list(range(STEPS))


def test_all_formats_are_found_under_one_root(root: Path):
    found = find_recordings(root)
    assert sorted((recording.format, recording.env) for recording in found) == [
        ("minerl", "MineRLTreechop-v0"),
        ("video", "walks"),
        ("vpt", "8.0"),
    ]
    assert [recording.path for recording in found] == sorted(recording.path for recording in found)
    assert find_incomplete(root) == []


@pytest.mark.parametrize("kind", FORMATS)
def test_each_format_is_read_with_the_right_frames(root: Path, kind: str):
    recording = one(root, kind)
    assert_aligned(read_recording(recording, guess_space(recording)), kind)


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("shift", [-1, 1])
def test_a_planted_shift_of_one_frame_is_seen(root: Path, kind: str, shift: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(read_module, "decode_blocks", lambda path, *_: [np.roll(decode_video(path), shift, axis=0)])
    recording = one(root, kind)
    with pytest.raises(AssertionError):
        assert_aligned(read_recording(recording, guess_space(recording)), kind)


@pytest.mark.parametrize("kind", FORMATS)
def test_labels_know_their_video_and_agree_with_the_whole(root: Path, kind: str):
    recording = one(root, kind)
    space = guess_space(recording)
    labels = read_labels(recording, space)
    whole = read_recording(recording, space)
    aligned = labels.align(len(whole) + (7 if kind == "minerl" else 0))
    assert labels.recording.video.is_file()
    np.testing.assert_array_equal(aligned.trajectory.actions, whole.actions)
    assert len(aligned.picked) == len(whole) and (np.diff(aligned.picked) == 1).all()


def test_names_are_unique_and_as_short_as_that_allows(tmp_path: Path):
    for folder in ("a", "b", "c/a"):
        (tmp_path / folder).mkdir(parents=True)
        write_video(tmp_path / folder / "same.mp4", 2)
    write_video(tmp_path / "b" / "own.mp4", 2)
    write_video(tmp_path / "b" / "twice.mp4", 2)
    write_video(tmp_path / "b" / "twice.mkv", 2)
    names = [recording.name for recording in find_recordings(tmp_path)]
    assert names == ["a.same.mp4", "own", "b.same", "b.twice.mkv", "b.twice.mp4", "c.a.same.mp4"]


def test_names_that_cannot_be_told_apart_are_refused(tmp_path: Path):
    for path in ("a/b.c/x.mp4", "a.b/c/x.mp4", "a/c/x.mp4", "d/b.c/x.mp4"):
        (tmp_path / path).parent.mkdir(parents=True)
        write_video(tmp_path / path, 2)
    with pytest.raises(UserError, match=r"both be named a.b.c.x.mp4; rename one"):
        find_recordings(tmp_path)


def test_a_root_without_recordings_tells_all_layouts_in_one_line(tmp_path: Path):
    (tmp_path / "v3_player_mob-1_0-30").mkdir()
    with pytest.raises(UserError) as error:
        find_recordings(tmp_path)
    message = str(error.value)
    assert all(word in message for word in ("rendered.npz (MineRL)", ".jsonl (VPT)", "alone (no actions)"))
    assert "1 incomplete, the first v3_player_mob-1_0-30" in message and "\n" not in message


def test_a_version_file_is_minerls_business_alone(root: Path):
    (root / "VERSION").write_text("7.1")
    with pytest.raises(UserError, match="VERSION says '7.1'"):
        find_recordings(root)
    assert len(find_recordings(root / "walks")) == 1
    (root / "walks" / "VERSION").write_text("7.1")
    assert len(find_recordings(root / "walks")) == 1
