"""The picture of stretches of play: what is counted, and how frames are laid out."""

from __future__ import annotations

import numpy as np

from bench.play_strips import DRAWN, STEPS, STRETCHES, nearer, strip
from fastdreamer.play.moment import View


def view(value: int, dream: float = 0.0, copy: float = 0.0) -> View:
    frames = [np.full((1, 8, 8, 3), shade, np.uint8) for shade in (value, value + 100)]
    return View(frames[0], frames[1], {"drift": {"dream": dream, "copy": copy}})


def test_only_steps_behind_the_first_frame_count_and_a_tie_does_not() -> None:
    views = [view(0, 0.0, 1.0), view(1, 0.1, 0.2), view(2, 0.2, 0.2), view(3, 0.3, 0.2), view(4, 0.1, 0.3)]
    assert nearer(views) == 2


def test_real_frames_stand_above_dreamt_ones_in_their_order() -> None:
    found = strip([view(number) for number in range(10)])  # an episode that ended early
    assert found.shape == (26, 5 * 8, 3)
    assert found[0, ::8, 0].tolist() == [0, 1, 2, 4, 8] and found[8, ::8, 0].tolist() == [100, 101, 102, 104, 108]
    assert (found[16:] == 255).all()


def test_every_stretch_is_as_long_as_it_says() -> None:
    assert all(isinstance(keys, str) or len(keys) == STEPS for _, _, keys in STRETCHES)
    assert max(DRAWN) < len(STRETCHES)
