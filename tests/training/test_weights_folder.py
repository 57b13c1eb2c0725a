"""The folder of the tokenizer's weights is one folder however it is written: as it was typed, or as a run keeps it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from fastdreamer.config import Config
from fastdreamer.errors import UserError
from fastdreamer.latents.synthetic import write_synthetic_store
from fastdreamer.recordings.actions import action_space
from fastdreamer.run.checkpoint import load_checkpoint
from fastdreamer.run.directory import check_architecture
from fastdreamer.system.files import anchored
from fastdreamer.training.train import train

WEIGHTS = "weights/mine"


@pytest.mark.parametrize("is_whole", [False, True])
def test_weights_that_are_written_otherwise_are_the_same(
    small: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_whole: bool
) -> None:
    """A command trains with what was typed, and the run's config.yaml says the whole path: either may come first."""
    monkeypatch.chdir(tmp_path)
    typed = small(f"tokenizer.weights={WEIGHTS}")
    kept = anchored(typed, weights=True)
    assert typed.tokenizer.weights == WEIGHTS and kept.tokenizer.weights == str(tmp_path / WEIGHTS)
    first, second = (kept, typed) if is_whole else (typed, kept)
    run = tmp_path / "run"
    write_synthetic_store(run / "store", first.tokenizer.clock, action_space("crafter"), episodes=3, steps=12, seed=0)
    train(first, run, 1)
    checkpoint = load_checkpoint(run / "checkpoints" / "phase1")
    check_architecture(checkpoint, second)
    for other in (small("tokenizer.weights=weights/others"), small("tokenizer.weights=random")):
        with pytest.raises(UserError, match=r"tokenizer\.weights"):
            check_architecture(checkpoint, other)
