"""The first losses of every phase are what they were."""

from __future__ import annotations

import subprocess
import sys

from golden import losses


def test_the_first_losses_of_every_phase_are_as_committed() -> None:
    done = subprocess.run([sys.executable, losses.__file__], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(losses.committed()) >= 3 * len(losses.KEPT)


def test_a_figure_that_moves_or_is_not_a_number_is_named() -> None:
    before = {"phase 1: loss": [1.0, 2.0], "phase 2: loss": [1.0]}
    assert losses.differences(before, before) == []
    moved = before | {"phase 1: loss": [1.0, 2.0001]}
    assert losses.differences(before, moved) == ["phase 1: loss: 2.0001, not 2, at figure 2 of 2"]
    assert losses.differences(before, before | {"phase 2: loss": [float("nan")]})[0].startswith("phase 2: loss: nan")
    assert losses.differences(before, {"phase 1: loss": [1.0]}) == [
        "phase 2: loss: no longer there",
        "phase 1: loss: 1 figures, not 2",
    ]
