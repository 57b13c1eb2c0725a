"""What the times of frames say: the rate, and what is missing, as far as the unit and the jitter let them."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from fastdreamer.recordings.frame_times import FrameTimes
from fastdreamer.recordings.read import find_recordings, read_aligned
from fastdreamer.recordings.recording import DamagedRecording
from recordings.test_vpt_clock import TICKS, VPT, without
from recordings.video_fixtures import read_barcode
from recordings.vpt_fixtures import write_vpt_recording

MILLISECOND = Fraction(1, 1000)


def rounded(rate: float, frames: int = 40, unit: Fraction = MILLISECOND) -> FrameTimes:
    """Times of a steady rate as a container rounds them."""
    return FrameTimes(np.rint(np.arange(frames) / rate / float(unit)).astype(np.int64), unit)


@pytest.mark.parametrize("rate", [20, 24, 25, 30, 60, 120, 144, 10, 1])
def test_a_unit_of_a_millisecond_makes_no_other_rate(rate: int):
    assert rounded(rate).per_s == rate
    assert rounded(rate, unit=Fraction(1, 90_000)).per_s == rate


def test_rates_of_television_stay_apart():
    assert rounded(30000 / 1001, 2000).per_s == 29.97
    assert rounded(24000 / 1001, unit=Fraction(1, 90_000)).per_s == 23.98


def test_a_frame_an_hour_has_a_rate():
    assert FrameTimes(np.arange(5) * 3600, Fraction(1)).per_s == pytest.approx(1 / 3600, rel=1e-3)


@pytest.mark.parametrize(("rate", "unit"), [(480, MILLISECOND), (20, Fraction(1, 24))])
def test_a_coarse_unit_says_nothing_of_missing_frames(rate: float, unit: Fraction):
    assert rounded(rate, 300, unit).ticks is None


def test_a_unit_of_one_frame_says_which_are_missing():
    times = FrameTimes(np.delete(np.arange(300), [100, 101, 200]), Fraction(1, 20))
    assert times.ticks is not None and np.flatnonzero(times.ticks != 1).tolist() == [99, 197]


def jittered(frames: list[int]) -> list[int]:
    """Twentieths of a frame: each comes up to 8 early or late."""
    late = np.random.default_rng(0).integers(-8, 9, TICKS)
    return [20 * tick + 8 + int(late[tick]) for tick in frames]


def test_jitter_is_no_frame_that_came_twice_where_every_frame_has_a_line(tmp_path: Path):
    times = jittered(without())
    write_vpt_recording(tmp_path, TICKS, times=lambda i: times[i])
    aligned = read_aligned(find_recordings(tmp_path)[0], VPT)
    assert [read_barcode(frame) for frame in aligned.trajectory.frames] == without()


def test_jitter_hides_what_is_missing_and_is_set_aside_then(tmp_path: Path):
    times = jittered(without(*range(100, 105)))
    write_vpt_recording(tmp_path, TICKS, len(times), times=lambda i: times[i])
    with pytest.raises(DamagedRecording, match="no time says which"):
        read_aligned(find_recordings(tmp_path)[0], VPT)
