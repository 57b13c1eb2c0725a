"""Layouts, ranges, resampling and padding."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from fastdreamer.errors import UserError
from fastdreamer.shapes import LatentClock
from fastdreamer.tokenizer.preprocess import padded_length, preprocess

CLOCK = LatentClock(8, 33)
SINGLE = LatentClock(1, 1)


def _frames(t: int = 9, size: int = 16) -> torch.Tensor:
    return torch.randint(0, 256, (2, 3, t, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_both_layouts_and_both_types_give_the_same() -> None:
    frames = _frames()
    expected = preprocess(frames, CLOCK, 32)
    assert expected.shape == (2, 3, 9, 32, 32)
    assert torch.equal(preprocess(frames.transpose(1, 2), CLOCK, 32), expected)
    assert torch.equal(preprocess(frames.float() / 255, CLOCK, 32), expected)
    assert expected.min() >= -1 and expected.max() <= 1


def test_frames_of_the_right_size_are_not_resampled() -> None:
    frames = _frames(t=1)
    assert torch.equal(preprocess(frames, SINGLE, 16), frames.float() / 255 * 2 - 1)


def test_three_frames_need_a_layout() -> None:
    frames = _frames(t=3)
    with pytest.raises(UserError, match="pass layout"):
        preprocess(frames, SINGLE, 16)
    as_channels_first = preprocess(frames, SINGLE, 16, "bcthw")
    assert torch.equal(preprocess(frames, SINGLE, 16, "btchw"), as_channels_first.transpose(1, 2))


def test_resampling_is_bicubic_with_a_half() -> None:
    frames = _frames(t=1)
    image = frames[:, :, 0].float() / 255
    right = F.interpolate(image, (64, 64), mode="bicubic", antialias=True).clamp(0, 1)
    torch_default = F.interpolate(image, (64, 64), mode="bicubic").clamp(0, 1)
    got = (preprocess(frames, SINGLE, 64)[:, :, 0] + 1) / 2
    assert torch.allclose(got, right, atol=1e-6)
    assert (got - torch_default).abs().max() > 0.01


def test_resampling_agrees_with_pil() -> None:
    from PIL import Image

    frames = 64 + _frames(t=1, size=64) // 2  # PIL clips between its two passes; these values never reach the border
    image = Image.fromarray(frames[0, :, 0].permute(1, 2, 0).numpy()).resize((256, 256), Image.Resampling.BICUBIC)
    got = (preprocess(frames[:1], SINGLE, 256)[0, :, 0].permute(1, 2, 0).numpy() + 1) / 2
    assert np.abs(got * 255 - np.asarray(image, np.float32)).max() < 1.51


@given(frames=st.integers(1, 80), c=st.sampled_from([1, 2, 4, 8]))
@settings(max_examples=30)
def test_padding_repeats_the_last_frame_up_to_whole_steps(frames: int, c: int) -> None:
    clock = LatentClock(c, 1 if c == 1 else 1 + c)
    clip = torch.rand(1, 3, frames, 2, 2)
    padded = preprocess(clip, clock, 2, "bcthw")
    assert padded.shape[2] == padded_length(frames, clock) == 1 + (clock.steps(frames) - 1) * c
    assert padded.shape[2] - frames < c
    assert torch.equal(padded[:, :, frames:], padded[:, :, frames - 1 : frames].expand_as(padded[:, :, frames:]))


@pytest.mark.parametrize(
    ("frames", "word"),
    [
        (torch.zeros(3, 8, 8), "shape"),
        (torch.zeros(1, 4, 5, 8, 8), "no axis of 3"),
        (torch.zeros(0, 3, 1, 8, 8), "empty"),
        (torch.full((1, 3, 1, 8, 8), 2.0), "span"),
        (torch.full((1, 3, 1, 8, 8), float("nan")), "span"),
        (torch.zeros(1, 3, 1, 8, 8, dtype=torch.int32), "int32"),
    ],
)
def test_what_is_no_picture_is_refused(frames: torch.Tensor, word: str) -> None:
    with pytest.raises(UserError, match=word):
        preprocess(frames, SINGLE, 8)


def test_a_layout_that_does_not_fit_is_refused() -> None:
    with pytest.raises(UserError, match="needs 3 colours"):
        preprocess(_frames(t=9), CLOCK, 16, "btchw")
    with pytest.raises(UserError, match="must be bcthw"):
        preprocess(_frames(t=9), CLOCK, 16, "bthwc")
