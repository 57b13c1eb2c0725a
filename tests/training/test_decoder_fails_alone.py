"""Phase 1 is trained when the pixel decoder begins: what fails there costs the decoder alone, and is said."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fastdreamer.config import Config
from fastdreamer.latents.store import LatentStore
from fastdreamer.run.checkpoint import load_checkpoint, steps_in
from fastdreamer.run.directory import RunDirectory
from fastdreamer.training import pixel_decoder as pixels
from fastdreamer.training.train import train

from .conftest import BACKEND

Small = Callable[..., Config]
MakeRun = Callable[..., Path]


def test_recordings_that_are_gone_or_broken_do_not_end_phase_one(
    small: Small, new_run: MakeRun, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    base = small("phase1.steps=2")
    run, config = new_run(base), replace(base, data=replace(base.data, recordings=str(tmp_path / "empty")))
    result = train(config, run, 1)
    assert load_checkpoint(run / "checkpoints" / "phase1").step == 2
    assert result["decoder"]["trained"] is False and str(tmp_path / "empty") in result["decoder"]["reason"]
    assert "pixel decoder: not trained" in capsys.readouterr().err

    def broken(*given: object) -> None:
        raise ZeroDivisionError("a codec's")

    monkeypatch.setattr(pixels, "_pairs", broken)
    assert train(config, run, 1, resume=True)["decoder"]["reason"] == "ZeroDivisionError: a codec's"


def test_a_damaged_decoder_is_trained_anew(
    small: Small, new_run: MakeRun, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = small("phase1.steps=2", "decoder.steps=4", "decoder.checkpoint_every=2")
    config = replace(base, data=replace(base.data, recordings=str(tmp_path)))
    run, c = new_run(config), config.tokenizer.frames_per_latent
    train(small("phase1.steps=2"), run, 1, draws=False)
    store = LatentStore.open(run / "store")
    latents = next(iter(store.episodes)).latents[:4].float()
    frames = torch.randint(0, 256, (4, c, 3, 64, 64), dtype=torch.uint8)
    monkeypatch.setattr(pixels, "_pairs", lambda *given: (latents, frames))
    pixels.train_pixel_decoder(config, RunDirectory(run), store, BACKEND, False)
    newest = steps_in(run / "checkpoints" / "phase0")[-1]
    kept = newest.rename(tmp_path / "kept")
    newest.mkdir()
    (newest / "manifest.json").write_text("{}")
    torch.manual_seed(config.seed)
    pixels.train_pixel_decoder(config, RunDirectory(run), store, BACKEND, True)
    assert load_checkpoint(run / "checkpoints" / "phase0").step == 4 and load_checkpoint(kept).step == 4
    err = capsys.readouterr().err
    assert "pixel decoder: from its first step on, for checkpoint" in err and "damaged" in err
