"""The small decoder of pooled latents."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from fastdreamer.errors import UserError
from fastdreamer.tokenizer.pixels import PixelDecoder


@pytest.mark.parametrize("c", [1, 8])
def test_frames_of_a_step_in_size_and_range_and_below_a_million_parameters(c: int) -> None:
    decoder = PixelDecoder(c)
    frames = decoder(torch.randn(2, 16, 16) * 5)
    assert frames.shape == (2, c, 3, 64, 64)
    assert frames.min() >= 0 and frames.max() <= 1
    assert sum(p.numel() for p in decoder.parameters()) < 1_000_000


def test_other_sizes_than_multiples_of_sixteen_are_refused() -> None:
    assert PixelDecoder(1, size=128, width=16)(torch.zeros(1, 16, 16)).shape == (1, 1, 3, 128, 128)
    with pytest.raises(UserError, match="multiple of 16"):
        PixelDecoder(1, size=60)


def test_it_learns_a_picture_from_each_latent() -> None:
    torch.manual_seed(0)
    decoder = PixelDecoder(1, width=16)
    latents = torch.randn(4, 16, 16)
    frames = torch.rand(4, 1, 3, 4, 4).repeat_interleave(16, -1).repeat_interleave(16, -2)
    optimizer = torch.optim.Adam(decoder.parameters(), 3e-3)
    losses = []
    for _ in range(60):
        loss = (decoder(latents) - frames).square().mean()
        losses.append(float(loss.detach()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.2 * losses[0]


def test_every_pixel_may_depend_on_every_token() -> None:
    decoder = PixelDecoder(1, width=16)
    latents = torch.randn(1, 16, 16, requires_grad=True)
    decoder(latents)[0, 0, :, 0, 0].sum().backward()
    assert latents.grad is not None and (latents.grad.abs().sum(-1) > 0).all()


def test_importing_it_brings_no_diffusers() -> None:
    code = "import sys, fastdreamer.tokenizer.pixels; sys.exit('diffusers' in sys.modules or 'av' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": ":".join(sys.path)}).returncode == 0
