"""Times of a video's frames, and what they say of missing frames and of the rate, which is to be one for a store."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

import numpy as np
from jaxtyping import Int

# Share of a video's frames that may come late or early before its times are no clock at all: a variable rate.
MOST_ODD = 0.25
# Units of a usual step from which on rounding to whole units cannot make a step look like two.
FINE = 3
JITTERED = 3  # early frames that are more than one that came twice
SETTLED = 10  # frames after which jitter has evened out
MOST_ODD_COARSE = 0.02  # the share below that


@dataclass(frozen=True)
class FrameTimes:
    """Times of the visible frames, ascending, in units of `unit` seconds from the container's zero.

    `start` is how much later than the first frame of the whole video the first one is: 0 where nothing was cut off.
    """

    times: Int[np.ndarray, " t"]
    unit: Fraction
    start: int = 0

    @cached_property
    def step(self) -> int:
        """The usual distance of two frames, in units; 0 with fewer than two."""
        steps = np.sort(np.diff(self.times))
        return int(steps[(len(steps) - 1) // 2]) if len(steps) else 0

    @property
    def per_s(self) -> float:
        """Frames a second, as they usually come; 0 where that is not known.

        A container with a coarse unit (mkv: 1 ms) rounds the times of its frames, so their mean says it; and so short
        of it that the rate is whole, or whole by 1000/1001, as nearly all are, that is meant. A unit of one frame, as
        in avi, rounds nothing.
        """
        if not self.step:
            return 0.0
        if self.step == 1 and self.ticks is not None:
            return float(f"{float(1 / self.unit):.4g}")
        steps = np.diff(self.times)
        usual = steps[np.abs(steps - self.step) <= max(1, self.step / 4)]
        rate = float(1 / (usual.mean() * self.unit))
        doubt = rate / (len(usual) * float(usual.mean()))  # of one unit over all of them
        whole = max(round(rate), 1)
        meant = [r for r in (whole, whole * 1000 / 1001) if abs(r - rate) <= doubt]
        return float(f"{meant[0] if meant else rate:.4g}")

    def seconds(self, number: int) -> float:
        """Seconds from the first frame to the frame `number`."""
        return float((int(self.times[number]) - int(self.times[0])) * self.unit)

    @property
    def ticks(self) -> Int[np.ndarray, " s"] | None:
        """Whole usual steps from each frame to the next: 1, more where frames are missing between them, or 0.

        None where times say nothing of what is missing: more than a few are not 1, as with a variable rate; frames come
        so early here and there that it is jitter, which makes late ones too; or the unit is so coarse that a rate
        between two of its multiples looks like frames that are missing now and then.
        """
        if not self.step:
            return None if len(self.times) > 1 else np.zeros(0, np.int64)
        steps = np.diff(self.times)
        ticks = np.rint(steps / self.step).astype(np.int64)
        odd = int((ticks != 1).sum())
        early = np.flatnonzero((ticks == 0) & (steps > 0))
        if odd > max(1, MOST_ODD * len(ticks)) or (
            len(early) >= JITTERED and all(self._is_jitter(int(number)) for number in early)
        ):
            return None
        return None if self.step < FINE and odd > max(FINE, MOST_ODD_COARSE * len(ticks)) else ticks

    def _is_jitter(self, number: int) -> bool:
        """Whether the frame after one only comes early: those around the two are where they would be."""
        low = max(number - SETTLED, 0)
        around = self.times[low : number + 2 + SETTLED]
        phases = around - self.step * np.arange(len(around))
        before, after = phases[: number + 1 - low], phases[number + 1 - low :]
        return bool(abs(np.median(after) - np.median(before)) < self.step / 2)

    def place(self, number: int) -> str:
        """Place of a frame in the video, for a reader."""
        return f"frame {number} ({self.seconds(number):.2f} s)"


def count_rates(rates: Iterable[float]) -> dict[str, int]:
    """How many recordings have which frames a second, the most common first; 0 is unknown and not counted."""
    return {f"{rate:g}": count for rate, count in Counter(rate for rate in rates if rate).most_common()}


def describe_mix(counts: dict[str, int]) -> str:
    """A line for rates that differ by more than rounding (a step is so many frames); empty where they are one."""
    rates = [float(rate) for rate in counts]
    if not rates or max(rates) <= 1.02 * min(rates):
        return ""
    shown = ", ".join(f"{rate} ({count:,} recordings)" for rate, count in counts.items())
    return f"frames a second differ: {shown}; a step of the world model is as many frames in each, so not as long"
