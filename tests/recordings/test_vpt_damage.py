"""Damaged and odd VPT recordings: read as far as they can be trusted, with a line that says so, or refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from fastdreamer.recordings.actions import action_space
from fastdreamer.recordings.read import find_incomplete, find_recordings, read_aligned
from fastdreamer.recordings.recording import Aligned, DamagedRecording
from fastdreamer.recordings.vpt import draw_cursor
from recordings.video_fixtures import barcode, read_barcode
from recordings.vpt_fixtures import row_of_vpt, vpt_line, write_vpt_recording

VPT = action_space("vpt")
NAMES = [component.name for component in VPT.components]


def read(root: Path, **options: bool) -> Aligned:
    (recording,) = find_recordings(root)
    return read_aligned(recording, VPT, **options)


def assert_aligned(aligned: Aligned, steps: int) -> None:
    assert row_of_vpt(aligned.trajectory.actions, NAMES) == list(range(steps))
    assert [read_barcode(frame) for frame in aligned.trajectory.frames] == list(range(steps + 1))


def without(*path: str, value: Any = None) -> str:
    """A line with a field left out, or with another value in its place."""
    line = vpt_line()
    inner = line
    for name in path[:-1]:
        inner = inner[name]
    del inner[path[-1]]
    return json.dumps(line) if value is None else json.dumps(line | {path[0]: {**line[path[0]], path[-1]: value}})


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"mouse": {"x": 1.0, "dx"', "no JSON"),
        ("", "no JSON"),
        ("\x00\x00", "no JSON"),
        ("[1, 2]", "not an object"),
        ("[" * 100_000, ""),
        (without("mouse"), "no mouse"),
        (without("keyboard"), "no keyboard"),
        (without("mouse", "dx"), "mouse has no dx"),
        (without("mouse", "dy", value=float("nan")), "mouse.dy is NaN, not a number"),
        (without("mouse", "dx", value="fast"), 'mouse.dx is "fast", not a number'),
        (without("mouse", "dx", value=10**400), "mouse.dx is a number of many digits, not a number"),
        (without("mouse", "buttons"), "mouse has no buttons"),
        (without("mouse", "newButtons", value=0), "mouse.newButtons is 0, not a list"),
        (without("keyboard", "keys", value="w"), 'keyboard.keys is "w", not a list'),
        (json.dumps(vpt_line(hotbar=11)), "hotbar is 11"),
        (json.dumps(vpt_line(mouse=[])), "mouse is a list, not an object"),
    ],
)
def test_a_recording_is_read_up_to_its_first_broken_line(tmp_path: Path, line: str, words: str):
    write_vpt_recording(tmp_path, change=lambda lines: lines.__setitem__(25, line))
    aligned = read(tmp_path)
    assert_aligned(aligned, 24)
    (mended,) = aligned.mended
    assert mended.startswith("line 26 of 40") and words in mended and mended.endswith("read up to it")


def test_a_file_that_breaks_off_in_its_last_line_loses_that(tmp_path: Path):
    path = write_vpt_recording(tmp_path).with_suffix(".jsonl")
    path.write_bytes(path.read_bytes()[:-100])
    aligned = read(tmp_path)
    assert_aligned(aligned, 38)
    assert "line 40 of 40" in aligned.mended[0]


def test_line_ends_of_windows_and_bytes_that_are_no_text(tmp_path: Path):
    path = write_vpt_recording(tmp_path).with_suffix(".jsonl")
    lines = path.read_bytes().splitlines()
    lines[30] = b"\xff\xfe" + lines[30]
    path.write_bytes(b"\r\n".join(lines) + b"\r\n")
    aligned = read(tmp_path)
    assert_aligned(aligned, 29)
    assert "line 31 of 40" in aligned.mended[0]


@pytest.mark.parametrize(("lines", "frames", "steps"), [(40, 43, 39), (43, 40, 39), (41, 40, 39)])
def test_lengths_that_differ_a_little_are_cut_to_the_shorter(tmp_path: Path, lines: int, frames: int, steps: int):
    write_vpt_recording(tmp_path, lines, frames)
    aligned = read(tmp_path)
    assert_aligned(aligned, steps)
    (mended,) = aligned.mended
    assert f"has {frames} frames" in mended and f"has {lines} lines" in mended and "shorter" in mended


@pytest.mark.parametrize(("lines", "frames"), [(40, 45), (45, 40), (2400, 2190), (1, 40)])
def test_lengths_that_differ_by_much_are_refused(tmp_path: Path, lines: int, frames: int):
    """Much is more than a tenth, or more than 200 frames."""
    write_vpt_recording(tmp_path, lines, frames)
    with pytest.raises(DamagedRecording, match=f"{frames} frames.* {lines} lines: they cannot belong together"):
        read(tmp_path, frames=False)


def test_a_lost_tail_of_lines_is_no_shorter_recording(tmp_path: Path):
    """Broken lines count as lines: what is refused is a file whose number of lines is not the video's."""
    write_vpt_recording(tmp_path, change=lambda lines: lines.__setitem__(10, "?"))
    assert_aligned(read(tmp_path), 9)
    write_vpt_recording(tmp_path, change=lambda lines: lines.__delitem__(slice(10, None)), frames=40)
    with pytest.raises(DamagedRecording, match="cannot belong together"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda lines: lines.clear(), "jsonl is empty"),
        (lambda lines: lines.__setitem__(0, "?"), "line 1 of 40 .* is broken"),
        (lambda lines: lines.__setitem__(1, "?"), "1 frames have an action"),
    ],
)
def test_what_leaves_no_step_is_refused(tmp_path: Path, change: Any, words: str):
    write_vpt_recording(tmp_path, change=change, frames=40)
    with pytest.raises(DamagedRecording, match=words) as error:
        read(tmp_path)
    assert "\n" not in str(error.value)


def test_early_recorders_null_mouse_or_keyboard_is_no_input_and_said(tmp_path: Path):
    def change(lines: list[Any]) -> None:
        lines[7]["mouse"] = None
        lines[8]["keyboard"] = None
        lines[9] |= {"keyboard": None, "mouse": None, "isGuiOpen": True}

    write_vpt_recording(tmp_path, change=change)
    aligned = read(tmp_path)
    actions = aligned.trajectory.actions
    assert row_of_vpt(actions, NAMES)[:7] == list(range(7)) and row_of_vpt(actions, NAMES)[10:] == list(range(10, 39))
    assert not actions[7][[NAMES.index("attack"), NAMES.index("use")]].any()
    assert actions[9].tolist() == list(VPT.noop)
    assert [read_barcode(frame) for frame in aligned.trajectory.frames] == list(range(40))
    assert aligned.mended == ("3 lines without mouse or keyboard are read as no input",)


def write_wide(path: Path, frames: int, height: int, width: int) -> None:
    """Grey frames, lossless, with a barcode in the lower right corner."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264rgb", rate=20, options={"qp": "0", "preset": "ultrafast"})
        stream.height, stream.width, stream.pix_fmt = height, width, "rgb24"
        for number in range(frames):
            image = np.full((height, width, 3), 100, np.uint8)
            image[-64:, -64:] = barcode(number)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())


@pytest.mark.parametrize(("height", "width"), [(360, 640), (720, 1280)])
def test_the_cursor_is_drawn_where_a_window_is_open_and_nowhere_else(tmp_path: Path, height: int, width: int):
    def change(lines: list[Any]) -> None:
        for row, (x, y) in {3: (200.0, 100.0), 4: (1278.0, 300.0), 7: (0.0, 0.0)}.items():
            lines[row] |= {"isGuiOpen": True, "mouse": {**lines[row]["mouse"], "x": x, "y": y}}

    path = write_vpt_recording(tmp_path, 8, change=change)
    write_wide(path, 8, height, width)
    frames = read(tmp_path).trajectory.frames
    assert [read_barcode(frame[-64:, -64:]) for frame in frames] == list(range(8))
    scale = height / 720
    for number, frame in enumerate(frames):
        rows, columns = np.nonzero((frame[:-64] != 100).any(2))
        if number not in (3, 4, 7):
            assert not len(rows)
            continue
        x, y = {3: (200, 100), 4: (1278, 300), 7: (0, 0)}[number]
        assert (rows.min(), columns.min()) == (int(y * scale), int(x * scale))
        assert rows.max() < y * scale + height * 16 / 360 and columns.max() < width
        assert {tuple(pixel) for pixel in frame[rows, columns]} <= {(0, 0, 0), (255, 255, 255)}
    assert (frames[3] == 255).all(2).sum() > 20 * scale


@pytest.mark.parametrize(("x", "y"), [(-500, 10), (10, -500), (5000, 10), (10, 5000), (-3, -3), (1e8, 1e8)])
def test_a_cursor_beyond_the_rim_is_cut(x: float, y: float):
    frame = np.full((64, 64, 3), 100, np.uint8)
    draw_cursor(frame, x, y)
    assert (frame != 100).any() == ((x, y) == (-3, -3))


def test_what_an_index_lists_and_is_not_there_is_named(tmp_path: Path):
    here = write_vpt_recording(tmp_path, 3)
    lone = write_vpt_recording(tmp_path, 3, name="lone")
    lone.with_suffix(".jsonl").unlink()
    video = write_vpt_recording(tmp_path, 3, name="no-video")
    video.unlink()
    relpaths = [f"8.0/{here.stem}", "8.0/lone", "8.0/no-video", "8.0/gone", "8.0/gone-too.mp4"]
    index = {"basedir": "somewhere/data/", "relpaths": relpaths}
    (tmp_path / "all_8xx.json").write_text(json.dumps(index))
    (tmp_path / "notes.json").write_text("{")
    assert [recording.name for recording in find_recordings(tmp_path)] == [here.stem]
    reasons = dict(find_incomplete(tmp_path))
    assert sorted(reasons) == ["gone", "gone-too", "lone", "no-video"]
    assert "there is no lone.jsonl" in reasons["lone"] and "no video for no-video.jsonl" in reasons["no-video"]
    assert "all_8xx.json lists 8.0/gone" in reasons["gone"] and "gone-too.mp4 with" in reasons["gone-too"]
