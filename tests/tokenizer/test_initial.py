"""Where a fit starts: linear, normalised, and already informative."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from fastdreamer_kernels import latent_pool
from test_cosmos import SHAPES
from torch import Tensor

from fastdreamer.tokenizer.cosmos import build_random
from fastdreamer.tokenizer.fitting.bottleneck import DenseDecoder, shrink
from fastdreamer.tokenizer.fitting.initial import close_branches, start_linear

GENERATOR = torch.Generator().manual_seed(0)


def _draw(t: int = 1, batch: int = 16, blocks: tuple[int, int] = (8, 16)) -> Tensor:
    """Pictures of rows x columns random colours; by default 24 numbers a token of 8 x 8 pixels."""
    rows, columns = blocks
    colours = torch.rand(batch, 3, t, rows, columns, generator=GENERATOR) * 2 - 1
    return colours.repeat_interleave(32 // rows, -2).repeat_interleave(32 // columns, -1)


def _simple(batch: int = 16) -> Tensor:
    """Two colours a token, left and right of its middle: 6 numbers, which 16 channels can hold."""
    return _draw(1, batch, (4, 8))


def _linear_error(encode: Callable[[Tensor], Tensor]) -> float:
    """Share of the pictures' variance that no linear map of the latents gives, on pictures not used to find it.

    The map is regularised and found in fp64: 96 colours make 256 numbers, so that 160 directions hold rounding alone,
    and a plain least-squares solver in fp32 takes them for signal in some runs (errors of 1.0 in place of 0.014).
    """

    def pairs(batch: int) -> tuple[Tensor, Tensor]:
        frames = _simple(batch)
        with torch.no_grad():
            return latent_pool(encode(frames), 1)[:, -1].flatten(1).double(), frames[:, :, -1].flatten(1).double()

    x, y = pairs(1000)
    x_mean, y_mean = x.mean(0), y.mean(0)
    gram = (x - x_mean).T @ (x - x_mean)
    gram += 1e-5 * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
    weight = torch.linalg.solve(gram, (x - x_mean).T @ (y - y_mean))
    x, y = pairs(200)
    return float(((x - x_mean) @ weight + y_mean - y).square().mean() / y.var())


@pytest.mark.parametrize("c", [1, 4])
def test_latents_start_normalised_and_uncorrelated(c: int) -> None:
    config = SHAPES[c]
    model = build_random(config)
    drawn: list[Tensor] = []

    def draw() -> Tensor:
        drawn.append(_draw(config.window))
        return drawn[-1]

    start_linear(model, draw, pool=1)
    with torch.no_grad():
        latents = latent_pool(model._encode(torch.cat(drawn)), 1).flatten(0, 2)
    assert latents.mean(0).abs().max() < 0.1
    assert (torch.cov(latents.T) - torch.eye(16)).abs().max() < 0.1  # exact but for pictures' means by token


def test_the_start_holds_more_of_the_picture_than_random_weights() -> None:
    model = build_random(SHAPES[1])
    before = _linear_error(model._encode)
    start_linear(model, _simple, pool=1)
    after = _linear_error(model._encode)
    assert after < 0.7 * before and after < 0.4, (before, after)


def test_closed_branches_leave_the_shortcuts() -> None:
    model = build_random(SHAPES[1])
    close_branches(model)
    block = model.encoder.mid_block
    features = torch.randn(1, 8, 1, 4, 4)
    with torch.no_grad():
        assert torch.equal(block(features), features)


def test_the_dense_decoder_starts_at_the_best_linear_map() -> None:
    torch.manual_seed(0)
    mix = torch.randn(256, 3 * 64 * 64) / 16
    decoder = DenseDecoder()

    def pairs() -> tuple[Tensor, Tensor]:
        latents = torch.randn(16, 16, 16)
        return latents, (latents.flatten(1) @ mix + 0.3).unflatten(1, (3, 64, 64))

    decoder.solve(pairs, batches=40)
    latents, pictures = pairs()
    with torch.no_grad():
        error = (decoder(latents) - pictures).square().mean() / pictures.var()
    assert error < 0.01


def test_pictures_are_compared_at_64_pixels() -> None:
    frames = torch.rand(2, 3, 1, 64, 64)
    assert torch.equal(shrink(frames), frames[:, :, 0])
    flat = torch.full((1, 3, 1, 128, 128), 0.25)
    torch.testing.assert_close(shrink(flat), torch.full((1, 3, 64, 64), 0.25))
