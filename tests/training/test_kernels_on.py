"""A short run of each phase, and a step of the tokenizer's fit, with the kernels on and off: the same losses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from fastdreamer_kernels import latent_pool, record_launches
from fastdreamer_kernels.launch import IS_INTERPRETED

from fastdreamer.config import Config
from fastdreamer.run.metrics import read_metrics
from fastdreamer.training.train import train

pytestmark = pytest.mark.skipif(not IS_INTERPRETED, reason="runs with TRITON_INTERPRET=1, as make test does")

TOLERANCE = 2e-4  # relative, of losses in fp32 after up to six steps


def test_all_phases_train_alike_with_the_kernels_on_and_off(
    small: Callable[..., Config], new_run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    losses: dict[str, list[float]] = {}
    for name in ("on", "off"):
        config = small("phase1.log_every=1", "phase2.log_every=1")
        run_dir = new_run(config, name)
        if name == "off":
            for module in ("two_hot", "decode"):
                monkeypatch.setattr(f"fastdreamer_kernels.{module}.use_kernel", lambda tensor, forced: False)
        with record_launches() as launches:
            for phase in (1, 2, 3):
                train(config, run_dir, phase)
        kernels = {kernel for kernel, _ in launches}
        assert kernels == (
            {"two_hot_kernel", "two_hot_scale_kernel", "two_hot_decode_kernel"} if name == "on" else set()
        )
        rows = read_metrics(run_dir)
        losses[name] = [
            row[key] for row in rows for key in sorted(row) if key.startswith(("loss", "value", "imagined"))
        ]
    assert len(losses["on"]) == len(losses["off"]) > 40
    torch.testing.assert_close(torch.tensor(losses["on"]), torch.tensor(losses["off"]), rtol=TOLERANCE, atol=1e-5)


def test_a_tokenizer_learns_alike_through_either_pooling() -> None:
    results = []
    for kernel in (True, False):
        torch.manual_seed(0)
        encoder, decoder = torch.nn.Conv3d(3, 16, 3, padding=1), torch.nn.Linear(16, 48)
        optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], 1e-2)
        frames = torch.rand(2, 3, 2, 8, 8)
        target = frames.unfold(3, 4, 4).unfold(4, 4, 4).permute(0, 2, 3, 4, 1, 5, 6).flatten(4).flatten(2, 3)
        for _ in range(5):
            loss = (decoder(latent_pool(encoder(frames), 4, kernel=kernel)) - target).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        results.append(loss.detach())
    torch.testing.assert_close(*results, rtol=TOLERANCE, atol=1e-6)
