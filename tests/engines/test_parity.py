"""The gate lets eager through and stops every way in which a compiled tokenizer has been, or could be, wrong."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from fastdreamer_engines import EngineSpec, Gate, verdict
from torch import Tensor
from torch.nn import functional as F

SPEC = EngineSpec("encoder", "fp32", ((1, 17), (4, 17), (6, 17)), image_size=8)
DECODER = EngineSpec("decoder", "fp32", ((1, 17), (3, 17)), image_size=8)


def encode(frames: Tensor) -> Tensor:
    """Causal, unbounded in the past, one latent step per eight frames after the first."""
    means = F.adaptive_avg_pool3d(frames, (None, 1, 1)).cumsum(2)[:, :, ::8]
    return means.repeat(1, 6, 1, 1, 1)[:, :16].sin()


def decode(latents: Tensor) -> Tensor:
    frames = latents.cumsum(2).repeat_interleave(8, 2)[:, :3, 7:]
    return frames.expand(-1, -1, -1, 8, 8).sin()


def _mixed(clips: Tensor) -> Tensor:
    return encode(clips.roll(1, 0))


def _bidirectional(clips: Tensor) -> Tensor:
    outputs = encode(clips)
    return outputs + 1e-3 * clips[:, :1, -1:].mean((3, 4), keepdim=True)


def _averaging(clips: Tensor) -> Tensor:
    return encode(clips) + 1e-2 * clips[:, :1].mean((2, 3, 4), keepdim=True)


def _one_step(clips: Tensor) -> Tensor:
    outputs = encode(clips)
    outputs[3:4, :, 1] *= 1.0001  # of the noise; a norm over the batch would hide it
    return outputs


BROKEN: dict[str, Callable[[Tensor], Tensor]] = {
    "nan": lambda clips: encode(clips) * float("nan"),
    "rounded": lambda clips: encode(clips).half().float() * 1.001,
    "neighbours": _mixed,
    "future": _bidirectional,
    "whole": _averaging,
    "one step": _one_step,
    "zero": lambda clips: encode(clips) * 0,
}


@pytest.mark.parametrize("shape", SPEC.shapes)
def test_eager_passes_at_every_shape(shape: tuple[int, int]) -> None:
    check = Gate(encode, SPEC, torch.device("cpu")).check(encode, shape, "eager", 1e-6)
    assert check.is_within and check.max_error <= 1e-6 and check.shape == f"{shape[0]}x{shape[1]}"


@pytest.mark.parametrize("shape", DECODER.shapes)
def test_decoders_are_compared_in_frames(shape: tuple[int, int]) -> None:
    gate = Gate(decode, DECODER, torch.device("cpu"))
    assert gate.check(decode, shape, "eager", 1e-6).is_within
    leaking = gate.check(lambda z: decode(z) + 0.01 * z[:, :1, -1:], shape, "leaking", 1e-3)
    assert leaking.perturbation_error > 1e-3 and not leaking.is_within


@pytest.mark.parametrize("name", BROKEN)
@pytest.mark.parametrize("shape", [(4, 17), (6, 17)])
def test_a_wrong_engine_does_not_pass(name: str, shape: tuple[int, int]) -> None:
    check = Gate(encode, SPEC, torch.device("cpu")).check(BROKEN[name], shape, name, 5e-5)
    assert not check.is_within


def test_a_look_at_the_future_shows_even_where_the_reference_has_it_too() -> None:
    check = Gate(_bidirectional, SPEC, torch.device("cpu")).check(_bidirectional, (1, 17), "future", 5e-5)
    assert check.relative_error == 0 and check.perturbation_error > 5e-5
    check = Gate(_averaging, SPEC, torch.device("cpu")).check(_averaging, (1, 17), "whole clip", 5e-5)
    assert check.relative_error == 0 and check.prefix_error > 5e-5


def test_the_verdict_is_the_check_nearest_to_or_furthest_past_its_limit() -> None:
    gate = Gate(encode, SPEC, torch.device("cpu"))
    loose = gate.check(lambda x: encode(x) * 1.001, (1, 17), "loose", 1e-1)
    strict = gate.check(lambda x: encode(x) * 1.0001, (1, 17), "strict", 1e-5)
    broken = gate.check(BROKEN["nan"], (1, 17), "nan", 1e-1)
    assert verdict([loose, strict]) is strict and not verdict([loose, strict]).is_within
    assert verdict([loose, strict, broken]) is broken
