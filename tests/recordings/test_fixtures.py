"""Every fixture is what its name says, by its container's own words, and is read right or refused in one line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest

from fastdreamer.recordings.actions import action_space
from fastdreamer.recordings.decode import count_frames, decode_video
from fastdreamer.recordings.read import find_recordings, read_recording
from fastdreamer.recordings.recording import DamagedRecording
from fastdreamer.recordings.trajectory import Trajectory
from recordings.fixtures import FIXTURES, row_of, treechop_arrays
from recordings.video_fixtures import barcode, nal_types, packets_of, read_barcode

GOOD = [name for name, fixture in FIXTURES.items() if not fixture.refusal]
SPACE = action_space("minerl_treechop")


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folder above each fixture's recording."""
    roots = {name: tmp_path_factory.mktemp(name) for name in FIXTURES}
    for name, fixture in FIXTURES.items():
        fixture.write(roots[name])
    return roots


def video(root: Path) -> Path:
    return next(root.rglob("recording.mp4"))


def read(root: Path) -> Trajectory:
    return read_recording(find_recordings(root)[0], SPACE)


def assert_aligned(trajectory: Trajectory, first: int) -> None:
    """Row i's action was taken at the frame with barcode first + i."""
    assert row_of(trajectory.actions).tolist() == list(range(len(trajectory) - 1))
    assert [read_barcode(frame) for frame in trajectory.frames] == list(range(first, first + len(trajectory)))


@pytest.mark.parametrize("name", GOOD)
def test_every_row_has_its_frame(roots: dict[str, Path], name: str):
    assert_aligned(read(roots[name]), FIXTURES[name].first)


@pytest.mark.parametrize("shift", [-1, 1])
@pytest.mark.parametrize("name", GOOD)
def test_a_planted_shift_of_one_frame_is_seen(
    roots: dict[str, Path], name: str, shift: int, monkeypatch: pytest.MonkeyPatch
):
    decoded = "fastdreamer.recordings.read.decode_blocks"
    monkeypatch.setattr(decoded, lambda path, *_: [np.roll(decode_video(path), shift, axis=0)])
    with pytest.raises(AssertionError):
        assert_aligned(read(roots[name]), FIXTURES[name].first)


@pytest.mark.parametrize("name", sorted(set(FIXTURES) - set(GOOD)))
def test_what_is_damaged_is_refused_in_its_words(roots: dict[str, Path], name: str):
    with pytest.raises(DamagedRecording, match=FIXTURES[name].refusal) as error:
        read(roots[name])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", [*GOOD, "too-few"])
def test_counting_equals_decoding(roots: dict[str, Path], name: str):
    assert count_frames(video(roots[name])) == len(decode_video(video(roots[name])))


def test_a_row_is_read_from_its_action():
    assert row_of(SPACE.from_recording(treechop_arrays(30976))).tolist() == list(range(30976))


def keys(root: Path) -> list[int]:
    return [index for index, packet in enumerate(packets_of(video(root))) if packet.is_keyframe]


def is_reordered(root: Path) -> bool:
    """Packets are not in the order of presentation: there are B-frames."""
    times = [packet.pts for packet in packets_of(video(root))]
    return times != sorted(times)


def has_leading_frames(root: Path, key: int) -> bool:
    """That packet is a key frame that is not IDR, and the next one is shown before it."""
    packets = packets_of(video(root))
    return packets[key].is_keyframe and 5 not in nal_types(packets[key]) and packets[key + 1].pts < packets[key].pts


def hidden(root: Path) -> int:
    return sum(packet.is_discard for packet in packets_of(video(root)))


def has_uneven_times(root: Path) -> bool:
    return len(set(np.diff(sorted(packet.pts for packet in packets_of(video(root)))))) == 3


def codec(root: Path) -> tuple[str, str | None]:
    with av.open(str(video(root))) as container:
        context = container.streams.video[0].codec_context
        return context.name, context.pix_fmt


def boxes(root: Path, kind: bytes) -> int:
    return video(root).read_bytes().count(kind)


PROPERTIES: dict[str, Callable[[Path], bool]] = {
    "b-frames": lambda root: is_reordered(root) and keys(root) == [0],
    "gop-217": lambda root: is_reordered(root) and keys(root) == [0, 217, 434],
    "open-gop": lambda root: all(has_leading_frames(root, key) for key in keys(root)[1:]) and len(keys(root)) > 5,
    "open-gop-start": lambda root: has_leading_frames(root, 0) and hidden(root) == 0,
    "open-gop-start-edit-list": lambda root: has_leading_frames(root, 0) and hidden(root) == 3,
    "edit-list": lambda root: boxes(root, b"elst") == 1 and hidden(root) == 33 and keys(root) == [0],
    "variable-rate": has_uneven_times,
    "odd-extra": lambda root: len(packets_of(video(root))) == 126,
    "fragmented": lambda root: boxes(root, b"moof") == 5,
    "mpeg4": lambda root: codec(root) == ("mpeg4", "yuv420p") and is_reordered(root),
    "lossless-rgb": lambda root: codec(root) == ("h264", "gbrp"),
    "too-few": lambda root: len(packets_of(video(root))) == 120,
    "truncated-index-last": lambda root: boxes(root, b"moov") == 0,
    "truncated-index-first": lambda root: boxes(root, b"moov") == 1,
    "truncated-fragments": lambda root: boxes(root, b"moof") > 3,
}


@pytest.mark.parametrize("name", FIXTURES)
def test_a_fixture_is_what_its_name_says(roots: dict[str, Path], name: str):
    assert PROPERTIES[name](roots[name])


def test_lossless_frames_are_the_painted_ones(roots: dict[str, Path]):
    frames = read(roots["lossless-rgb"]).frames
    np.testing.assert_array_equal(frames, np.stack([barcode(2 + row) for row in range(len(frames))]))
