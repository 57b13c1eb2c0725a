"""What the times of frames say: the rate, and what is missing, as far as the unit and the jitter let them."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastdreamer.recordings.frame_times import JITTERED, MOST_ODD, SETTLED, FrameTimes
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


@pytest.mark.parametrize("lost", [[], [7], [3, 4, 12]], ids=["whole", "a hole", "two holes"])
@pytest.mark.parametrize(
    ("unit", "frames", "rate"),
    [
        (Fraction(2, 25), 20, 12.5),
        (Fraction(1001, 30000), 300, 29.97),
        (Fraction(1001, 24000), 20, 23.98),
        (Fraction(1, 20), 20, 20),
    ],
)
def test_a_unit_of_one_frame_is_the_rate(unit: Fraction, frames: int, rate: float, lost: list[int]):
    """Nothing is rounded there, however short the video is, and frames that are missing do not slow it."""
    assert FrameTimes(np.delete(np.arange(frames), lost), unit).per_s == rate


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


def by_the_whole_video(times: np.ndarray) -> list[int] | None:
    """`FrameTimes.ticks` with a fine unit, written down plainly: every early frame is held against all frames."""
    steps = np.diff(times)
    step = int(np.sort(steps)[(len(steps) - 1) // 2])
    ticks = np.rint(steps / step).astype(np.int64)
    early = np.flatnonzero((ticks == 0) & (steps > 0))
    phases = times - step * np.arange(len(times))
    shifts = [
        np.median(phases[number + 1 : number + 2 + SETTLED]) - np.median(phases[max(number - SETTLED, 0) : number + 1])
        for number in early
    ]
    is_jitter = len(early) >= JITTERED and bool((np.abs(shifts) < step / 2).all())
    return None if is_jitter or (ticks != 1).sum() > max(1, MOST_ODD * len(ticks)) else ticks.tolist()


def test_frames_around_an_early_one_say_what_the_whole_video_says():
    """Few and many frames, early ones at both ends, frames that came twice, holes, and a clock far from zero."""
    random, found = np.random.default_rng(2), []
    for _ in range(2000):
        times = 20 * np.arange(random.integers(8, 60)) + random.choice([0, 1 << 40])
        for number in random.integers(len(times), size=random.integers(0, 6)):
            times[number:] -= 14 * random.integers(0, 2)  # it came twice: those after it stay that much earlier
        for number in [*random.integers(len(times), size=random.integers(0, 4)), 1, len(times) - 1][:4]:
            times[number] -= 12
        times[random.integers(len(times)) :] += 20 * random.integers(0, 3)
        times = np.sort(times)
        ticks = FrameTimes(times, MILLISECOND).ticks
        found.append(None if ticks is None else ticks.tolist())
        assert found[-1] == by_the_whole_video(times), times.tolist()
    assert 200 < found.count(None) < 1800


class Counted(np.ndarray):
    """Times that count how many values are computed from them."""

    computed = 0

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **how: Any) -> Any:
        """Count, then compute."""
        plain = [np.asarray(one) if isinstance(one, Counted) else one for one in inputs]
        if isinstance(how.get("out"), tuple):
            how["out"] = tuple(np.asarray(one) if isinstance(one, Counted) else one for one in how["out"])
        Counted.computed += max(np.size(one) for one in plain)
        result = getattr(ufunc, method)(*plain, **how)
        return result.view(Counted) if isinstance(result, np.ndarray) else result


def test_what_early_frames_cost_grows_with_the_video_not_with_its_square(monkeypatch: pytest.MonkeyPatch):
    computed = []
    for count in (1000, 4000):
        times = 20 * np.arange(count)
        times[5::10] -= 12
        monkeypatch.setattr(Counted, "computed", 0)
        assert FrameTimes(times.view(Counted), MILLISECOND).ticks is None
        computed.append(Counted.computed)
    assert 4000 < computed[1] < 5 * computed[0]
