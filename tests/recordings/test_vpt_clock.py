"""VPT frames and lines that were lost on the way: matched by time, or set aside with the place; never silently off."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastdreamer.recordings.actions import action_space
from fastdreamer.recordings.frame_times import FrameTimes
from fastdreamer.recordings.read import find_recordings, read_aligned
from fastdreamer.recordings.recording import Aligned, DamagedRecording
from fastdreamer.recordings.vpt_clock import line_clocks, match
from recordings.video_fixtures import read_barcode
from recordings.vpt_fixtures import row_of_vpt, vpt_line, write_vpt_recording

VPT = action_space("vpt")
NAMES = [component.name for component in VPT.components]
TICKS = 300
JITTER = np.random.default_rng(0).integers(-20, 21, TICKS)  # of the machine's clock, in ms


def read(root: Path, **options: bool) -> Aligned:
    (recording,) = find_recordings(root)
    return read_aligned(recording, VPT, **options)


def write(root: Path, frames: list[int], lines: list[int], clock: str = "tick", **video: Any) -> None:
    """A recording with the frames and lines of these ticks; what is left of the video keeps its times."""

    def change(all_lines: list[Any]) -> None:
        for tick, line in enumerate(all_lines):
            line |= {"tick": tick} if "tick" in clock else {}
            line |= {"milli": 1_650_000_000_000 + 50 * tick + int(JITTER[tick])} if "milli" in clock else {}
        all_lines[:] = [all_lines[tick] for tick in lines]

    write_vpt_recording(root, TICKS, len(frames), change=change, times=lambda i: frames[i], **video)


def without(*lost: int) -> list[int]:
    return [tick for tick in range(TICKS) if tick not in lost]


def assert_matched(aligned: Aligned, frames: list[int], kept: list[int]) -> None:
    """Every frame shows the tick whose action it has."""
    shown = [frames[read_barcode(frame)] for frame in aligned.trajectory.frames]
    assert shown == kept
    assert row_of_vpt(aligned.trajectory.actions, NAMES) == kept[:-1]
    assert aligned.trajectory.valid.tolist() == [True, *(np.diff(kept) == 1).tolist()]


LOST = range(100, 105)
CASES: dict[str, tuple[list[int], list[int], str]] = {
    "frames, by their times": (without(*LOST), without(), ""),
    "frames, one": (without(7), without(), ""),
    "frames, at the start": (without(*range(5)), without(), ""),
    "lines, by tick": (without(), without(*LOST), "tick"),
    "lines, by milli": (without(), without(*LOST), "milli"),
    "lines, at the start": (without(), without(*range(5)), "tick"),
    "as many of both": (without(*range(200, 205)), without(*LOST), "tick and milli"),
    "as many of both, by milli": (without(*range(200, 205)), without(*LOST), "milli"),
    "as many frames as lines at the end": (without(*LOST), without(*range(295, 300)), ""),
    "as many lines as frames at the end": (without(*range(295, 300)), without(*LOST), "tick"),
    "the same of both": (without(*LOST), without(*LOST), "tick"),
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_lost_moves_nothing(tmp_path: Path, case: str):
    frames, lines, clock = CASES[case]
    write(tmp_path, frames, lines, clock)
    aligned = read(tmp_path)
    assert_matched(aligned, frames, sorted(set(frames) & set(lines)))
    (mended,) = aligned.mended or ("",)
    assert "matched by their times" in mended


@pytest.mark.parametrize("container", ["mp4", "mkv", "avi"])
def test_times_are_those_of_the_container(tmp_path: Path, container: str):
    frames = without(*LOST)
    write(tmp_path, frames, without(), **({"codec": "mpeg4", "bf": "0", "qscale": "3"} if container == "avi" else {}))
    (path,) = tmp_path.rglob("*.mp4")
    if container != "mp4":
        from recordings.video_fixtures import remux

        remux(path, path.with_suffix(f".{container}"))
        path.unlink()
    assert_matched(read(tmp_path), frames, frames)


def test_the_place_is_said(tmp_path: Path):
    write(tmp_path, without(*LOST), without())
    (mended,) = read(tmp_path).mended
    assert "295 frames" in mended and "300 lines" in mended
    assert "5 ticks have no frame or no line, the first after frame 99, line 100" in mended


def test_a_late_line_of_a_game_that_hung_is_not_a_lost_one(tmp_path: Path):
    """Its ticks run all at once afterwards: the machine's clock jumps and is right again."""

    def change(lines: list[Any]) -> None:
        for tick, line in enumerate(lines):
            line["milli"] = 50 * tick + (400 - 50 * (tick - 100) if 100 <= tick < 108 else 0)

    write_vpt_recording(tmp_path, TICKS, change=change)
    aligned = read(tmp_path)
    assert_matched(aligned, without(), without())
    assert not aligned.mended


@pytest.mark.parametrize("milli", [lambda tick: 100 * tick, lambda tick: 0, lambda tick: -tick, lambda tick: 1e400])
def test_a_machines_clock_that_is_none_of_ticks_is_not_believed(tmp_path: Path, milli: Callable[[int], float]):
    def change(lines: list[Any]) -> None:
        for tick, line in enumerate(lines):
            line["milli"] = milli(tick)

    write_vpt_recording(tmp_path, TICKS, change=change)
    assert_matched(read(tmp_path), without(), without())


def test_a_video_on_the_machines_clock_is_matched_by_it(tmp_path: Path):
    """The game hung for 10 ticks and lost none; the video shows when, and so do the lines."""
    frames = [tick + 10 * (tick >= 100) for tick in range(TICKS)]

    def change(lines: list[Any]) -> None:
        for tick, line in enumerate(lines):
            line |= {"tick": tick, "milli": 50 * frames[tick]}

    write_vpt_recording(tmp_path, TICKS, change=change, times=lambda i: frames[i])
    aligned = read(tmp_path)
    assert [read_barcode(frame) for frame in aligned.trajectory.frames] == list(range(TICKS))
    assert row_of_vpt(aligned.trajectory.actions, NAMES) == list(range(TICKS - 1))


def twice(lines: list[Any]) -> None:
    for tick, line in enumerate(lines):
        line["tick"] = tick - (tick >= 100)


@pytest.mark.parametrize(
    ("times", "lines", "words"),
    [
        (lambda i: i, twice, "line 101 has tick 99 after 99"),
        (lambda i: 5 * i - 3 * (i == 100), lambda lines: None, r"two frames have the time of frame 99 \(24.75 s\)"),
        (lambda i: i + i // 3, lambda lines: lines.__delitem__(slice(100, 105)), "no steady rate"),
        (lambda i: i + 40 * (i >= 100), lambda lines: None, "cannot belong together"),
    ],
)
def test_what_no_time_can_tell_is_set_aside_with_the_place(tmp_path: Path, times: Any, lines: Any, words: str):
    write_vpt_recording(tmp_path, TICKS, change=lines, times=times)
    with pytest.raises(DamagedRecording, match=words):
        read(tmp_path)


def test_a_variable_rate_is_read_where_every_frame_has_a_line(tmp_path: Path):
    write_vpt_recording(tmp_path, TICKS, times=lambda i: i + i // 3)
    assert_matched(read(tmp_path), without(), without())


def test_null_actions_go_from_what_was_matched(tmp_path: Path):
    def change(lines: list[Any]) -> None:
        for tick in (50, 150):
            lines[tick] = vpt_line()

    frames = without(*LOST)
    write_vpt_recording(tmp_path, TICKS, len(frames), change=change, times=lambda i: frames[i])
    aligned = read(tmp_path, skip_null=True)
    kept = [tick for tick in frames if tick not in (50, 150)]
    assert [frames[read_barcode(frame)] for frame in aligned.trajectory.frames] == kept
    assert row_of_vpt(aligned.trajectory.actions, NAMES) == kept[:-1]


def test_a_slot_that_changed_while_lines_were_lost_is_nobodys(tmp_path: Path):
    def change(lines: list[Any]) -> None:
        for tick, line in enumerate(lines):
            line |= {"tick": tick, "hotbar": 3 * (tick >= 102)}
        del lines[100:105]

    write_vpt_recording(tmp_path, TICKS, TICKS, change=change)
    actions = read(tmp_path, frames=False).trajectory.actions
    assert not actions[:, NAMES.index("hotbar")].any()


def test_cursors_are_drawn_at_the_frames_of_their_lines(tmp_path: Path):
    frames = without(*LOST)

    def change(lines: list[Any]) -> None:
        lines[200] |= {"isGuiOpen": True, "mouse": {**lines[200]["mouse"], "x": 100.0, "y": 600.0}}

    write_vpt_recording(tmp_path / "with", TICKS, len(frames), change=change, times=lambda i: frames[i])
    write_vpt_recording(tmp_path / "without", TICKS, len(frames), times=lambda i: frames[i])
    drawn, plain = (read(tmp_path / name).trajectory.frames for name in ("with", "without"))
    assert np.flatnonzero((drawn != plain).any((1, 2, 3))).tolist() == [frames.index(200)]


def frame_times_of(ticks: np.ndarray) -> FrameTimes:
    return FrameTimes(ticks * 512, Fraction(1, 10240), int(ticks[0]) * 512)


def thinned(random: np.random.Generator, count: int) -> np.ndarray:
    """Ticks, of which up to twice some in a row are lost."""
    kept = np.ones(count, bool)
    for _ in range(random.integers(0, 3)):
        first = random.integers(count)
        kept[first : first + random.integers(1, 8)] = False
    return np.flatnonzero(kept)


def test_whatever_is_lost_a_frame_has_the_line_of_its_tick_or_none():
    random, matched, refused = np.random.default_rng(1), 0, 0
    for _ in range(500):
        count = int(random.integers(60, 800))
        frames, lines = thinned(random, count), thinned(random, count)
        try:
            found = match(line_clocks(lines.tolist(), [None] * len(lines)), frame_times_of(frames))
        except ValueError:
            refused += 1
            continue
        assert (frames[found.frames] == lines[found.lines]).all(), (count, frames, lines)
        matched += 1
    assert matched > 450 and refused < 10


def test_what_is_lost_at_both_ends_is_refused():
    """Lines 0 to 6 and the last one: two ways to lay them upon the frames leave as many without the other."""
    with pytest.raises(ValueError, match="lost at both ends"):
        match(line_clocks(list(range(7, 121)), [None] * 114), frame_times_of(np.arange(122)))


@pytest.mark.parametrize("frames", [295, 300])
def test_a_leap_of_the_machines_clock_that_the_video_does_not_explain_is_refused(frames: int):
    """The machine stood still, or five lines are missing and as many frames at the end: nothing tells which."""
    millis = [50 * tick for tick in without(*LOST)]
    with pytest.raises(ValueError, match="line 101 is 5 ticks late by its milli") if frames == 295 else nullcontext():
        match(line_clocks([None] * 295, millis), frame_times_of(np.arange(frames)))


def test_leaps_close_to_one_another_are_not_told_apart():
    millis = [50 * tick for tick in range(300) if tick not in (100, 101, 102, 106, 107, 108)]
    with pytest.raises(ValueError, match="nothing proves"):
        match(line_clocks([None] * len(millis), millis), frame_times_of(np.arange(300)))
    assert (
        len(match(line_clocks(list(range(len(millis))), millis), frame_times_of(np.arange(len(millis)))).lines) == 294
    )


@pytest.mark.parametrize("leap", [-400, 3_600_000], ids=["set back", "summer time"])
def test_a_machines_clock_that_was_set_is_believed_on_both_sides(tmp_path: Path, leap: int):
    def change(lines: list[Any]) -> None:
        for tick, line in enumerate(lines):
            line["milli"] = 1_650_000_000_000 + 50 * tick + leap * (tick >= 120)
        lines[:] = [lines[tick] for tick in without(50, 51, 52)]

    write_vpt_recording(tmp_path, TICKS, TICKS, change=change)
    assert_matched(read(tmp_path), without(), without(50, 51, 52))


def test_a_clock_that_was_set_proves_nothing_where_the_ends_are_apart(tmp_path: Path):
    def change(lines: list[Any]) -> None:
        for tick, line in enumerate(lines):
            line["milli"] = 50 * tick - 400 * (tick >= 120)
        lines[:] = [lines[tick] for tick in without(*range(120, 123))]

    write_vpt_recording(tmp_path, TICKS, TICKS, change=change)
    with pytest.raises(DamagedRecording, match="line 121 is 200 ms before line 120 by its milli"):
        read(tmp_path)


def test_ticks_that_go_on_from_another_recordings_do_not_hide_frames_lost_at_the_start(tmp_path: Path):
    def change(lines: list[Any]) -> None:
        for tick, line in enumerate(lines):
            line["tick"] = 4711 + tick

    kept = without(*range(5))
    write_vpt_recording(tmp_path, TICKS, len(kept), change=change, times=lambda i: kept[i])
    assert_matched(read(tmp_path), kept, kept)
