"""Resuming what is finished: nothing is trained, and the figures are those of its end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fastdreamer.config import Config
from fastdreamer.latents.store import LatentStore
from fastdreamer.run.directory import RunDirectory
from fastdreamer.training import pixel_decoder as pixels
from fastdreamer.training.train import train

from .conftest import BACKEND

Make = Callable[..., Path]


def test_a_finished_phase_says_what_it_came_to(small: Callable[..., Config], new_run: Make) -> None:
    config = small()
    run = new_run(config)
    first = train(config, run, 1)
    again = train(config, run, 1, resume=True)
    assert again["figures"]["loss"] == first["figures"]["loss"] and again["figures"] == pytest.approx(first["figures"])


def test_a_finished_decoder_says_its_psnr_or_nothing(
    small: Callable[..., Config], new_run: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    base = small("decoder.steps=3", "decoder.checkpoint_every=3")
    config = replace(base, data=replace(base.data, recordings=str(tmp_path)))
    run, c = new_run(config), config.tokenizer.frames_per_latent
    train(small(), run, 1, draws=False)
    store = LatentStore.open(run / "store")
    latents = next(iter(store.episodes)).latents[:4].float()
    frames = torch.randint(0, 256, (4, c, 3, 64, 64), dtype=torch.uint8)
    monkeypatch.setattr(pixels, "_pairs", lambda *given: (latents, frames))

    def come_to(resume: bool) -> dict[str, object]:
        return pixels.train_pixel_decoder(config, RunDirectory(run), store, BACKEND, resume)

    first = come_to(False)
    assert first["psnr"] == pytest.approx(come_to(True)["psnr"])
    (run / "metrics.jsonl").unlink()
    assert come_to(True) == {"trained": True, "frames": 4 * c}


def test_damaged_lines_of_metrics_do_not_stop_a_resume(small: Callable[..., Config], new_run: Make) -> None:
    config = small()
    run = new_run(config)
    train(config, run, 1)
    with (run / "metrics.jsonl").open("ab") as file:
        file.write(b'{"loss": 1}\n[]\n"x"\n' + b"[" * 50_000 + b"\n\xff\xfe\n" + b'{"phase": 1, "st')
    train(config, run, 1, resume=True)
