"""A ready engine: eager is the module itself; static shapes serve any number of clips up to their length."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from fastdreamer_engines import Engine, EngineError, EngineSpec, backend, eager_engine
from torch import Tensor, nn

SPEC = EngineSpec("encoder", "fp32", ((1, 9), (3, 9), (1, 5)), image_size=8, frames_per_latent=4)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_eager_runs_the_module_and_returns_float32(precision: str) -> None:
    module = nn.Conv3d(3, 16, 1).requires_grad_(False)
    frames = torch.rand(2, 3, 1, 8, 8)
    engine = eager_engine(module, replace(SPEC, precision=precision, shapes=()))
    latents = engine.run(frames)
    assert latents.dtype == torch.float32 and (engine.name, engine.precision) == ("eager", precision)
    error = (latents - module(frames)).abs().max()
    assert error == 0 if precision == "fp32" else 0 < error < 0.05


def test_unknown_precisions_and_backends_are_refused() -> None:
    with pytest.raises(ValueError, match="fp8"):
        eager_engine(nn.Identity(), replace(SPEC, precision="fp8"))  # type: ignore[arg-type]
    with pytest.raises(EngineError, match="known are tensorrt_rtx"):
        backend("fast")


def _recording(spec: EngineSpec) -> tuple[Engine, list[tuple[int, ...]]]:
    calls: list[tuple[int, ...]] = []

    def call(inputs: Tensor) -> Tensor:  # a step's latent is the mean of its last frame
        calls.append(tuple(inputs.shape))
        steps = inputs[:, :1, :: spec.frames_per_latent].mean((3, 4), keepdim=True)
        return steps.expand(-1, 16, -1, 1, 1)

    return Engine("recording", spec, call), calls


@pytest.mark.parametrize(
    ("clips", "frames", "expected"),
    [
        (1, 9, [(1, 9)]),
        (7, 9, [(3, 9), (3, 9), (1, 9)]),
        (2, 5, [(1, 5), (1, 5)]),
        (1, 1, [(1, 5)]),
    ],
)
def test_clips_are_split_and_padded_to_what_is_served(clips: int, frames: int, expected: list[tuple[int, int]]) -> None:
    engine, calls = _recording(SPEC)
    inputs = torch.rand(clips, 3, frames, 8, 8)
    outputs = engine.run(inputs)
    assert [(shape[0], shape[2]) for shape in calls] == expected
    torch.testing.assert_close(outputs[:, 0, :, 0, 0], inputs[:, 0, ::4].mean((2, 3)))


def test_a_rest_below_the_smallest_batch_is_padded_and_cut_off() -> None:
    engine, calls = _recording(replace(SPEC, shapes=((4, 9),)))
    inputs = torch.rand(6, 3, 9, 8, 8)
    outputs = engine.run(inputs)
    assert [shape[0] for shape in calls] == [4, 4] and len(outputs) == 6
    torch.testing.assert_close(outputs[:, 0, :, 0, 0], inputs[:, 0, ::4].mean((2, 3)))


def test_a_decoder_is_padded_in_latent_steps_and_cut_in_frames() -> None:
    spec = replace(SPEC, part="decoder", shapes=((1, 9),))
    seen: list[int] = []

    def call(latents: Tensor) -> Tensor:
        seen.append(latents.shape[2])
        return torch.zeros(1, 3, 9, 8, 8)

    assert Engine("decoder", spec, call).run(torch.zeros(2, 16, 2, 1, 1)).shape == (2, 3, 5, 8, 8)
    assert seen == [3, 3]


def test_what_no_shape_serves_is_refused() -> None:
    engine, _ = _recording(SPEC)
    with pytest.raises(EngineError, match="up to 9 frames, not 13"):
        engine.run(torch.rand(1, 3, 13, 8, 8))
    for served in (engine, eager_engine(nn.Identity(), replace(SPEC, shapes=()))):
        with pytest.raises(EngineError, match="7 frames would silently lose some"):
            served.run(torch.rand(1, 3, 7, 8, 8))
    with pytest.raises(EngineError, match="takes torch.float32, not torch.uint8"):
        engine.run(torch.zeros(1, 3, 9, 8, 8, dtype=torch.uint8))
