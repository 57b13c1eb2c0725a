"""A recording that is no longer what was encoded is not shown, compared or learned from beside its latents."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch
from encoding.test_encode import CONFIG, SPACE, _record, _trajectory

from fastdreamer.dynamics.world_model import WorldModel
from fastdreamer.encoding.pipeline import encode_recordings
from fastdreamer.evaluation.pictures import RealFrames
from fastdreamer.latents.store import LatentStore
from fastdreamer.recordings.writer import write_recording
from fastdreamer.run.directory import RunDirectory
from fastdreamer.tools.diagnosis.inputs import tokenizer as compared
from fastdreamer.training.pixel_decoder import _pairs

WORLD = MagicMock(spec=WorldModel, mean=torch.zeros(1), normalise=lambda latents, positions: latents)


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    _record(tmp_path / "recordings", 0, 1, 2)
    encode_recordings(CONFIG, tmp_path / "recordings", tmp_path / "store")
    return RunDirectory(tmp_path)


def replaced(run: RunDirectory, seed: int) -> None:
    """Other pixels, of the same number, and the same actions."""
    folder = run.path / "recordings" / "Crafter-test" / _trajectory(seed).name
    shutil.rmtree(folder)
    before = _trajectory(seed)
    other = type(before)(**{**vars(before), "frames": 255 - before.frames})
    write_recording(folder, other, SPACE, {"terminated": True})


def pairs(run: RunDirectory) -> torch.Tensor:
    return _pairs(CONFIG, LatentStore.open(run.path / "store"), run.path / "recordings", WORLD)[1]


def test_the_pixel_decoder_learns_from_what_was_encoded_alone(run: RunDirectory, capsys: Any) -> None:
    trained = [e.name for e in LatentStore.open(run.path / "store").split("train")]
    whole = pairs(run)
    seed = next(s for s in range(3) if _trajectory(s).name == trained[-1])
    replaced(run, seed)
    left = pairs(run)
    assert len(left) == len(whole) * (len(trained) - 1) / len(trained) and torch.equal(left, whole[: len(left)])
    assert f"{trained[-1]}: its files have changed since it was encoded" in capsys.readouterr().out


def test_the_report_shows_what_was_encoded_or_nothing(run: RunDirectory, capsys: Any) -> None:
    name, other = _trajectory(0).name, _trajectory(1).name
    replaced(run, 0)
    frames = RealFrames(CONFIG, run)
    assert frames(name) is None and "changed since it was encoded" in capsys.readouterr().out
    assert np.array_equal(frames(other), _trajectory(1).frames)


def test_diagnose_shows_a_red_flag_for_other_pixels(run: RunDirectory) -> None:
    store = LatentStore.open(run.path / "store")
    loaded: Any = SimpleNamespace(config=CONFIG, store=store, run=run, backend=SimpleNamespace(device="cpu"))

    def verdict() -> str:
        return next(check.verdict for check in compared(loaded) if check.name == "stored against fresh latents")

    assert verdict() == "ok"
    for seed in range(3):
        replaced(run, seed)
        folder = run.path / "recordings" / "More" / _trajectory(seed).name  # and names are no longer the store's
        write_recording(folder, _trajectory(seed + 10), SPACE, {"terminated": True})
    assert verdict() == "red"


def test_recordings_are_found_under_their_names_in_the_store_when_others_came(run: RunDirectory) -> None:
    """Whose folder makes their own names longer, and who must not be taken for them."""
    shown = RealFrames(CONFIG, run)(_trajectory(0).name)
    whole = pairs(run)
    for seed in range(3):
        other = _trajectory(seed + 10)
        folder = run.path / "recordings" / "Another" / _trajectory(seed).name
        write_recording(folder, other, SPACE, {"terminated": True})
    assert np.array_equal(RealFrames(CONFIG, run)(_trajectory(0).name), shown)
    assert torch.equal(pairs(run), whole)
    shutil.rmtree(run.path / "recordings" / "Crafter-test")
    assert not len(pairs(run)) and RealFrames(CONFIG, run)(_trajectory(0).name) is None
