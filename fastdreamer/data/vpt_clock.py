"""Which frame of a VPT recording belongs to which line, by time: both may have been lost on the way.

A line says its `tick`, the game's, and `milli`, the machine's clock; a frame has the time at which it is shown. Where
nothing is lost all of them go on by one, and line i is frame i. Where the recorder lost lines, or the video frames,
their number no longer says which is which, even if both lost as many; the times do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from fastdreamer.data.frame_times import FrameTimes

_USUAL_MS = (40, 60)  # from line to line; what goes slower or faster is no clock of ticks, which are 50 ms
_LATE = 1.5  # usual distances after which a line may be missing
_SETTLED = 10  # lines: a game that hangs runs its ticks all at once afterwards, within so many

Ticks = Int[np.ndarray, " n"]


def line_ticks(ticks: Sequence[object], millis: Sequence[object]) -> list[Ticks]:
    """The ticks of lines, by each clock that they have, the more exact one first.

    Raises:
        ValueError: naming the line, if its tick is not after the one before and there is no other clock.
    """
    found = []
    by_tick = _whole(ticks)
    goes_on = by_tick is not None and bool((np.diff(by_tick) > 0).all())
    if by_tick is not None and goes_on:
        found.append(by_tick)
    by_milli = _whole(millis)
    if by_milli is not None and (lost := _lost_by(by_milli)) is not None:
        found.append(np.arange(len(by_milli)) + np.cumsum(lost))
    if found:
        return found
    if by_tick is not None and (by_tick != by_tick[0]).any():
        line = int(np.flatnonzero(np.diff(by_tick) <= 0)[0]) + 1
        raise ValueError(f"line {line + 1} has tick {by_tick[line]} after {by_tick[line - 1]}")
    return [np.arange(len(ticks))]


def _whole(values: Sequence[object]) -> Ticks | None:
    """The values as whole numbers, if all of them are."""
    good = all(isinstance(v, int) and not isinstance(v, bool) and abs(v) < 1 << 53 for v in values)
    return np.array(values, np.int64) if good and values else None


def _lost_by(millis: Ticks) -> Ticks | None:
    """How many lines are missing before each, by the machine's clock; None if it is none of ticks."""
    steps = np.diff(millis)
    usual = float(np.median(steps)) if len(steps) else 0.0
    if not _USUAL_MS[0] <= usual <= _USUAL_MS[1] or (steps < 0).any():
        return None
    late, lost = millis - usual * np.arange(len(millis)), np.zeros(len(millis), np.int64)
    for line in np.flatnonzero(steps >= _LATE * usual) + 1:
        before, after = late[max(line - _SETTLED, 0) : line], late[line : line + _SETTLED]
        lost[line] = max(np.rint((after.min() - before.min()) / usual), 0)
        late[line:] -= lost[line] * usual
    return lost


@dataclass(frozen=True)
class Match:
    """Frames and their lines, ascending.

    Attributes:
        frames, lines: their numbers; frame frames[k] belongs to line lines[k].
        missing: how many ticks lie between each pair and the one before, of which no frame has its line.
    """

    frames: Int[np.ndarray, " k"]
    lines: Int[np.ndarray, " k"]
    missing: Int[np.ndarray, " k"]

    @property
    def gaps(self) -> Int[np.ndarray, " g"]:
        """The pairs before which something is missing."""
        return np.flatnonzero(self.missing)


def match(clocks: list[Ticks], times: FrameTimes) -> Match:
    """The frames and lines of one tick, by the clock that leaves the fewest without the other.

    Both begin at tick 0 together, or each where its own clock says, if only then they end together.

    Raises:
        ValueError: naming the place, where the video's times do not say which frame is whose.
    """
    count, steps = len(times.times), times.ticks
    if steps is None:
        if any(count == len(clock) and (np.diff(clock) == 1).all() for clock in clocks):
            return _pairs(np.arange(count), np.arange(count))
        raise ValueError(f"its {count} frames come at no steady rate, so no time says which belongs to which line")
    if not steps.all():
        place = times.place(int(np.flatnonzero(steps == 0)[0]))
        raise ValueError(f"two frames have the time of {place}, so no time says which belongs to which line")
    frames = np.append(0, np.cumsum(steps))
    start = round(int(times.times[0]) / times.step) if times.step else 0
    tries: list[tuple[int, bool, int, Match]] = []
    for clock in clocks:
        for begins in ((frames, clock - clock[0]), (frames + start, clock)):
            found = _pairs(*begins)
            ends = bool(len(found.frames)) and (found.frames[-1], found.lines[-1]) == (count - 1, len(clock) - 1)
            tries.append((-len(found.frames), not ends, len(tries), found))
    return min(tries)[-1]


def _pairs(frames: Ticks, lines: Ticks) -> Match:
    common, of_frames, of_lines = np.intersect1d(frames, lines, assume_unique=True, return_indices=True)
    return Match(of_frames, of_lines, np.diff(common, prepend=common[:1] - 1) - 1)
