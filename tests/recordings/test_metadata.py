"""metadata.json against the arrays and the video: what contradicts them is damaged, or another recording's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fastdreamer.recordings.actions import action_space
from fastdreamer.recordings.read import find_recordings, read_recording
from fastdreamer.recordings.recording import DamagedRecording
from fastdreamer.recordings.trajectory import Trajectory
from recordings.fixtures import read_barcode, row_of, treechop_arrays, write_minerl_recording

STEPS, EXTRA, HIDDEN = 40, 7, 33
TREECHOP = action_space("minerl_treechop")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_minerl_recording(tmp_path, treechop_arrays(STEPS), extra=EXTRA, hidden=HIDDEN)


def read(root: Path, **options: bool) -> Trajectory:
    (recording,) = find_recordings(root)
    return read_recording(recording, TREECHOP, **options)


def write_metadata(folder: Path, **changes: object) -> None:
    """Change fields of metadata.json."""
    content = json.loads((folder / "metadata.json").read_text())
    (folder / "metadata.json").write_text(json.dumps({**content, **changes}))


def assert_aligned(trajectory: Trajectory) -> None:
    numbers = [read_barcode(frame) - EXTRA for frame in trajectory.frames]
    assert numbers == list(range(STEPS + 1)) and row_of(trajectory.actions).tolist() == numbers[:-1]


@pytest.mark.parametrize("count", [STEPS + 1 + EXTRA, STEPS + 1 + EXTRA + HIDDEN, None])
def test_the_metadata_may_count_hidden_frames_or_not(folder: Path, count: int | None):
    """Some containers count them and some do not."""
    write_metadata(folder, true_video_frame_count=count)
    assert_aligned(read(folder.parents[1]))


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("duration_steps", STEPS + 1, f"is {STEPS + 1}, but there are {STEPS} rewards"),
        ("total_reward", 5.0, "is 5, but the rewards sum to 4"),
        ("total_reward", 4.01, "is 4.01, but the rewards sum to 4"),
        ("total_reward", float("nan"), "is 'nan', which is no number"),
        ("duration_steps", 10**400, "is '1000.*', which is no number"),
        ("true_video_frame_count", STEPS + 1, r"is 41, but recording.mp4 has 48 frames \(81 with hidden ones\)"),
        ("true_video_frame_count", STEPS + 9, "is 49, but recording.mp4 has 48 frames"),
        ("true_video_frame_count", "many", "is 'many', which is no number"),
    ],
)
def test_metadata_that_contradicts_the_recording_refuses_it(folder: Path, field: str, value: object, words: str):
    write_metadata(folder, **{field: value})
    for frames in (True, False):
        with pytest.raises(DamagedRecording, match=f"{field} in metadata.json {words}.*check_metadata=false"):
            read(folder.parents[1], frames=frames)
    assert_aligned(read(folder.parents[1], check_metadata=False))


def test_sums_of_rewards_may_differ_by_rounding(folder: Path):
    write_metadata(folder, total_reward=4.0005)
    assert_aligned(read(folder.parents[1]))


def test_swapped_videos_are_found_by_their_frame_count(tmp_path: Path):
    videos = [
        write_minerl_recording(tmp_path, treechop_arrays(STEPS), extra=3 * i, number=i) / "recording.mp4"
        for i in (0, 1)
    ]
    contents = [video.read_bytes() for video in videos]
    for video, content in zip(videos, contents[::-1], strict=True):
        video.write_bytes(content)
    for recording, words in zip(find_recordings(tmp_path), ("has 44 frames", "has 41 frames"), strict=True):
        with pytest.raises(DamagedRecording, match=words):
            read_recording(recording, TREECHOP)
