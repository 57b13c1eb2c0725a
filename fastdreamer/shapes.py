"""The letters of every shape annotation, and the latent clock (frames to latent steps).

Letters, used in jaxtyping annotations throughout:
    b  batch            t  frames            c  frames a latent step (the action chunk's length)
    l  latent steps     n  spatial tokens of a step (16)     z  latent channels (16)
    k  action components      d  model width      h, w  height, width      p  positions in a window

Step 0 of an episode covers frame 0 alone; step s >= 1 covers frames c(s-1)+1 .. cs, so the clock is causal: nothing
of a later frame is in an earlier step. Source: Cosmos tokenizer, arXiv:2501.03575, section 3.
"""

from __future__ import annotations

from dataclasses import dataclass

TOKENS = 16
CHANNELS = 16


@dataclass(frozen=True)
class LatentClock:
    """How frames map to latent steps: `frames_per_latent` (c) frames a step, encoded in windows of `window` frames.

    Windows are 1 + kc frames long and share their border frame (stride `window - 1`); with c = 1 every frame is a
    window of its own, because a tokenizer without temporal compression sees one frame at a time.

    Raises:
        ValueError: if the window is not 1 + kc frames.
    """

    frames_per_latent: int
    window: int

    def __post_init__(self) -> None:
        c, window = self.frames_per_latent, self.window
        if c < 1:
            raise ValueError(f"frames_per_latent is {c}; it must be at least 1")
        if c == 1 and window != 1:
            raise ValueError(f"window is {window}; with frames_per_latent 1 every frame is its own window: set it to 1")
        if c > 1 and (window <= c or (window - 1) % c):
            raise ValueError(f"window is {window}; it must be 1 + k * {c} frames, for example {1 + 4 * c}")

    @property
    def positions(self) -> int:
        """Latent steps in a full window: position 0 is the window's first frame."""
        return 1 if self.frames_per_latent == 1 else 1 + (self.window - 1) // self.frames_per_latent

    def steps(self, frames: int) -> int:
        """Latent steps of an episode or clip of `frames` frames: 1 + ceil((frames - 1) / c)."""
        if frames < 1:
            raise ValueError(f"frames is {frames}; an episode has at least one")
        return 1 + -(-(frames - 1) // self.frames_per_latent)

    def position(self, step: int) -> int:
        """Position of step `step` of an episode in its window (0 only for the very first step, or always if c = 1)."""
        if self.frames_per_latent == 1 or step == 0:
            return 0
        return 1 + (step - 1) % (self.positions - 1)
