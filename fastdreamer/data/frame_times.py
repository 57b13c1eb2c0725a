"""When a video's frames are shown, and what that says of frames that are missing between them."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from jaxtyping import Int

# Share of a video's frames that may come late or early before its times are no clock at all: a variable rate.
MOST_ODD = 0.25


@dataclass(frozen=True)
class FrameTimes:
    """Times of the visible frames, ascending, in units of `unit` seconds from the container's zero.

    `start` is how much later than the first frame of the whole video the first one is: 0 where nothing was cut off.
    """

    times: Int[np.ndarray, " t"]
    unit: Fraction
    start: int = 0

    @property
    def step(self) -> int:
        """The usual distance of two frames, in units; 0 with fewer than two."""
        steps = np.sort(np.diff(self.times))
        return int(steps[(len(steps) - 1) // 2]) if len(steps) else 0

    @property
    def per_s(self) -> float:
        """Frames a second, as they usually come; 0 where that is not known."""
        return round(float(1 / (self.step * self.unit)), 2) if self.step else 0.0

    def seconds(self, number: int) -> float:
        """From the first frame to one."""
        return float((int(self.times[number]) - int(self.times[0])) * self.unit)

    @property
    def ticks(self) -> Int[np.ndarray, " s"] | None:
        """From each frame to the next in whole usual steps: 1, more where frames are missing between them, or 0.

        None where more than a few are not 1, as with a variable rate: then times say nothing of what is missing.
        """
        if not self.step:
            return None if len(self.times) > 1 else np.zeros(0, np.int64)
        ticks = np.rint(np.diff(self.times) / self.step).astype(np.int64)
        odd = int((ticks != 1).sum())
        return None if odd > max(1, MOST_ODD * len(ticks)) else ticks

    def place(self, number: int) -> str:
        """Where a frame is, for a reader."""
        return f"frame {number} ({self.seconds(number):.2f} s)"
