"""VPT lines with ticks, whose machine's clock somebody set on the way: it hides nothing that the ticks say."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastdreamer.recordings.frame_times import FrameTimes
from fastdreamer.recordings.vpt_clock import line_clocks, match
from recordings.test_vpt_clock import TICKS, assert_matched, frame_times_of, read, without
from recordings.vpt_fixtures import write_vpt_recording

SET_BY = [-400, -150, -100, 3_600_000]  # ms; by -150 three lost lines leave no trace in it


def lines_of(ticks: list[int], set_by: int, at: int) -> tuple[list[int], list[int]]:
    """The lines' ticks, and their milli, set at one of them."""
    return ticks, [1_650_000_000_000 + 50 * tick + set_by * (tick >= at) for tick in ticks]


@pytest.mark.parametrize("cut", [0, 3, 5])
@pytest.mark.parametrize("set_by", SET_BY)
def test_a_clock_that_was_set_where_lines_are_lost_explains_no_frames_lost_at_the_end(
    tmp_path: Path, set_by: int, cut: int
):
    """As many frames as lines are left with 3 cut off: by the clock that was set nothing would be missing."""
    kept = without(120, 121, 122)

    def change(lines: list[Any]) -> None:
        lines[:] = [lines[tick] for tick in kept]
        for line, tick, milli in zip(lines, *lines_of(kept, set_by, 120), strict=True):
            line |= {"tick": tick, "milli": milli}

    frames = list(range(TICKS - cut))
    write_vpt_recording(tmp_path, TICKS, len(frames), change=change)
    assert_matched(read(tmp_path), frames, [tick for tick in kept if tick in frames])


@pytest.mark.parametrize("set_by", SET_BY)
def test_a_clock_that_was_set_does_not_make_a_variable_rate_readable(set_by: int):
    """237 frames, the last 3 lost, and 237 lines, 3 others lost: no number is the other's."""
    times = np.arange(237) + np.arange(237) // 3
    with pytest.raises(ValueError, match="no steady rate"):
        match(
            line_clocks(*lines_of([*range(120), *range(123, 240)], set_by, 120)), FrameTimes(times, Fraction(1, 1000))
        )


@pytest.mark.parametrize("set_by", SET_BY)
def test_a_video_on_the_machines_clock_is_matched_by_it_though_it_was_set_where_lines_are_lost(set_by: int):
    """The game hung for 10 ticks, which its own ticks do not say; the clock does, but not that lines are lost."""
    frames = np.array([tick + 10 * (tick >= 50) for tick in range(TICKS)])
    ticks = without(120, 121, 122)
    millis = [50 * int(frames[tick]) + set_by * (tick >= 120) for tick in ticks]
    found = match(line_clocks(ticks, millis), frame_times_of(frames))
    assert found.frames.tolist() == ticks and found.lines.tolist() == list(range(297))


def test_however_the_clock_was_set_a_frame_has_the_line_of_its_tick():
    random = np.random.default_rng(5)
    for _ in range(500):
        count, lost, cut = (int(number) for number in random.integers([100, 0, 0], [500, 6, 7]))
        first, other, hole = (int(place) for place in random.integers(20, count - 20, 3))
        ticks = [tick for tick in range(count) if not first <= tick < first + lost]
        set_by = int(random.choice([*SET_BY, -50 * lost]))
        jitter = random.integers(-8, 9, len(ticks))
        millis = np.array(lines_of(ticks, set_by, int(random.choice([first, other])))[1]) + jitter
        frames = (
            np.arange(count - cut) if random.random() < 0.6 else np.delete(np.arange(count), slice(hole, hole + cut))
        )
        found = match(line_clocks(ticks, millis.tolist()), frame_times_of(frames))
        case = (count, first, lost, set_by, frames)
        assert (frames[found.frames] == np.array(ticks)[found.lines]).all(), case
        assert len(found.frames) == len(set(ticks) & set(frames.tolist())), case
