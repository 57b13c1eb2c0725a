"""Match of frames and lines of a VPT recording, by time: both may have been lost on the way.

A line says its `tick`, the game's, and `milli`, the machine's clock; a frame has the time at which it is shown. Where
nothing is lost all of them go on by one, and line i is frame i. Where the recorder lost lines, or the video frames,
their number no longer says which is which, even if both lost as many; the times do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Int

from fastdreamer.recordings.frame_times import FrameTimes

_USUAL_MS = (40, 60)  # a step from line to line; what goes slower or faster is no clock of ticks, which are 50 ms
_LATE = 1.2  # usual distances after which a line may be missing, however its neighbours are jittered
_LEAP = 1.7  # usual distances that jitter alone does not explain
_SET = 200  # usual distances: no recording misses so many lines at once (`vpt.MAX_LENGTH_DIFFERENCE`)
_SETTLED = 10  # lines: a game that hangs runs its ticks all at once afterwards, within so many

Ticks = Int[np.ndarray, " n"]


@dataclass(frozen=True)
class Clock:
    """A clock: the ticks of lines.

    Attributes:
        late: the first line that comes late by a clock that may only have stood still; empty for one of ticks.
        is_crowded: such lines are so close to one another that it is not sure which they are.
    """

    ticks: Ticks
    late: str = ""
    is_crowded: bool = False


def line_clocks(ticks: Sequence[object], millis: Sequence[object]) -> list[Clock]:
    """The clocks that lines have, the more exact one first; without any they are counted.

    Raises:
        ValueError: naming the line, if its tick is not after the one before and there is no other clock.
    """
    found = []
    by_tick = _whole(ticks)
    if by_tick is not None and (np.diff(by_tick) > 0).all():
        found.append(Clock(by_tick))
    by_milli = _whole(millis)
    if by_milli is not None:
        found += [_held_to(clock, found[0]) if found else clock for clock in _machines(by_milli)]
    if not found and by_tick is not None and (by_tick != by_tick[0]).any():
        line = int(np.flatnonzero(np.diff(by_tick) <= 0)[0]) + 1
        raise ValueError(f"line {line + 1} has tick {by_tick[line]} after {by_tick[line - 1]}")
    return found or [Clock(np.arange(len(ticks)))]


def _whole(values: Sequence[object]) -> Ticks | None:
    """The values rounded, if all of them are numbers."""
    good = [v for v in values if isinstance(v, int | float) and not isinstance(v, bool) and abs(v) < 1 << 53]
    return np.rint(np.array(good)).astype(np.int64) if values and len(good) == len(values) else None


def _held_to(machines: Clock, exact: Clock) -> Clock:
    """A machine's clock, by which no fewer ticks pass from one line to the next than the game says itself.

    The game may hang, but is never early: somebody set the clock back there, or its jitter hides what is missing.
    """
    steps = np.maximum(np.diff(machines.ticks), np.diff(exact.ticks))
    return replace(machines, ticks=np.append(machines.ticks[0], machines.ticks[0] + np.cumsum(steps)))


def _machines(millis: Ticks) -> list[Clock]:
    """The clocks that the machine's may be; none if it is none of ticks.

    Somebody may have set it on the way (NTP, summer time): then it says nothing there, but does before and after.
    """
    steps = np.diff(millis)
    usual = float(np.median(steps)) if len(steps) else 0.0
    if not _USUAL_MS[0] <= usual <= _USUAL_MS[1]:
        return []
    found = [] if (steps < 0).any() else [_machine(millis)]
    if (was_set := (steps < 0) | (steps > _SET * usual)).any():
        line = int(np.flatnonzero(was_set)[0]) + 1
        going_on = np.append(millis[0], millis[0] + np.cumsum(np.where(was_set, round(usual), steps)))
        words = (
            f"line {line + 1} is {abs(steps[line - 1])} ms {'before' if steps[line - 1] < 0 else 'after'} line {line}"
        )
        found.append(replace(_machine(going_on), late=f"{words} by its milli"))
    return found


def _machine(millis: Ticks) -> Clock:
    """The clock of a machine that only goes forward."""
    steps = np.diff(millis)
    usual = float(np.median(steps))
    usual = float(steps[np.abs(steps / usual - 1) < 1].mean())  # a median of jittered steps is off by a millisecond
    late, lost = millis - usual * np.arange(len(millis)), np.zeros(len(millis), np.int64)
    gaps = np.flatnonzero(steps >= _LATE * usual) + 1
    for line in gaps[np.argsort(-steps[gaps - 1], kind="stable")]:  # a small one beside a large one may be jitter's
        before, after = late[max(line - _SETTLED, 0) : line], late[line : line + _SETTLED]
        doubt = 0.25 if min(len(before), len(after)) < _SETTLED // 2 else 0.0  # few lines' least is not yet the least
        lost[line] = max(np.rint((after.min() - before.min()) / usual - doubt), 0)
        late[line:] -= lost[line] * usual
    ticks, places = np.arange(len(millis)) + np.cumsum(lost), np.flatnonzero(lost)
    if not len(places):
        return Clock(ticks)
    first = f"line {places[0] + 1} is {lost[places[0]]} ticks late by its milli"
    leaps = np.flatnonzero(steps >= _LEAP * usual) + 1
    near = np.abs(leaps[:, None] - places) <= _SETTLED
    return Clock(ticks, first, bool(near.sum() > np.isin(places, leaps).sum()))


@dataclass(frozen=True)
class Match:
    """Numbers of frames and of their lines, ascending.

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

    def is_by_number(self, count: int) -> bool:
        """Whether the pairs are all frames and lines of the same number, of which there are `count`."""
        numbers = np.arange(count)
        return np.array_equal(self.frames, numbers) and np.array_equal(self.lines, numbers)


def match(clocks: Sequence[Clock], times: FrameTimes) -> Match:
    """The frames and lines of one tick, by the clock that leaves the fewest without the other.

    Both begin at tick 0 together, or each where its own clock says, if only then they end together.

    Raises:
        ValueError: naming the place, where the video's times do not say which frame is whose.
    """
    count, steps = len(times.times), times.ticks
    if steps is None:
        if any(count == len(clock.ticks) and (np.diff(clock.ticks) == 1).all() for clock in clocks):
            return _pairs(np.arange(count), np.arange(count))
        raise ValueError(f"its {count} frames come at no steady rate, so no time says which belongs to which line")
    if not steps.all():
        place = times.place(int(np.flatnonzero(steps == 0)[0]))
        raise ValueError(f"two frames have the time of {place}, so no time says which belongs to which line")
    frames = np.append(0, np.cumsum(steps))
    start = round(times.start / times.step) if times.step else 0
    tries: list[tuple[int, bool, int, Match, Clock]] = []
    for clock in clocks:
        if tries and tries[0][0] == -min(count, len(clock.ticks)):
            break  # the more exact clock leaves nothing to explain
        begun = clock.ticks - clock.ticks[0]  # a game's ticks may go on from another recording's
        for begins in ((frames, begun), (frames + start, clock.ticks), (frames + start, begun)):
            found = _pairs(*begins)
            last = (count - 1, len(clock.ticks) - 1)
            ends = bool(len(found.frames)) and (found.frames[-1], found.lines[-1]) == last
            tries.append((-len(found.frames), not ends, len(tries), found, clock))
    best, *others = sorted(tries, key=lambda one: one[:3])
    found, clock = best[3:]
    if clock.late and (best[1] or clock.is_crowded):
        raise ValueError(f"{clock.late}, and nothing proves whether lines are missing before it")
    # Frame and line 0 together, or each by its own clock: both may be true if neither makes them end together.
    rivals = [other[3] for other in others if best[1] and best[:2] == other[:2]]
    if not all(np.array_equal(found.frames, r.frames) and np.array_equal(found.lines, r.lines) for r in rivals):
        raise ValueError("frames or lines are lost at both ends, so no time says which belongs to which")
    return found


def _pairs(frames: Ticks, lines: Ticks) -> Match:
    common, of_frames, of_lines = np.intersect1d(frames, lines, assume_unique=True, return_indices=True)
    return Match(of_frames, of_lines, np.diff(common, prepend=common[:1] - 1) - 1)
