"""What is compiled equals the tokenizer's eager path, options included, and carries the mends."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from fastdreamer_engines import EncoderGraph, EngineSpec, compilable, count_work
from fastdreamer_engines.graph import resampling_matrix
from fastdreamer_kernels.reference import latent_pool
from test_cosmos import SHAPES

from fastdreamer.shapes import LatentClock
from fastdreamer.tokenizer import cosmos
from fastdreamer.tokenizer.preprocess import preprocess

CONFIG = replace(SHAPES[8], image_size=64, pool=2)
SPEC = EngineSpec("encoder", "fp32", ((1, 17),), image_size=64)


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    return cosmos.load_autoencoder(CONFIG)


@pytest.mark.parametrize(("source", "target"), [(64, 256), (20, 32), (33, 64), (96, 64)])
def test_the_resampling_matrix_is_the_preprocessing(source: int, target: int) -> None:
    frames = torch.randint(0, 256, (1, 3, 1, source, source), dtype=torch.uint8)
    matrix = resampling_matrix(source, target)
    expected = preprocess(frames, LatentClock(8, 17), target, "bcthw")
    found = (matrix @ (frames.float() / 255) @ matrix.T).clamp(0, 1) * 2 - 1
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-6)


@torch.no_grad()
def test_resampling_and_pooling_inside_equal_those_outside(model: torch.nn.Module) -> None:
    plain = EncoderGraph(model.encoder, model.quant_conv, SPEC)
    whole = EncoderGraph(model.encoder, model.quant_conv, replace(SPEC, frame_size=20, pool=2))
    frames = torch.randint(0, 256, (2, 3, 17, 20, 20), dtype=torch.uint8)
    expected = latent_pool(plain(preprocess(frames, LatentClock(8, 17), 64, "bcthw")), 2)
    found = whole(frames)
    assert found.shape == replace(SPEC, frame_size=20, pool=2).outputs((2, 17))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_compilable_copy_is_mended_and_equal_and_leaves_the_reference_alone(model: torch.nn.Module) -> None:
    graph = EncoderGraph(model.encoder, model.quant_conv, SPEC).eval()
    names = [name for name, _ in graph.named_modules()]
    copy = compilable(graph, SPEC)
    assert copy.encoder.patch_embed._arange.is_floating_point()
    assert not graph.encoder.patch_embed._arange.is_floating_point()
    assert [name for name, _ in graph.named_modules()] == names
    projections = [m.to_out[0] for m in copy.modules() if hasattr(m, "to_out")]
    assert projections and all(p[0](torch.zeros(2, 3).T).is_contiguous() for p in projections)
    frames = torch.rand(SPEC.inputs((1, 17))) * 2 - 1
    torch.testing.assert_close(copy(frames), graph(frames), rtol=1e-5, atol=1e-6)
    half = compilable(graph, replace(SPEC, precision="bf16"))
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}


def test_work_is_counted_by_tracing() -> None:
    spec = EngineSpec("encoder", "fp32", ((2, 1),), image_size=8, frames_per_latent=1)
    module = torch.nn.Conv3d(3, 16, (1, 3, 3), padding=(0, 1, 1))
    parameters, gflop = count_work(module, spec, (2, 1))
    assert parameters == 16 * 3 * 9 + 16
    assert gflop == pytest.approx(2 * 2 * 16 * 8 * 8 * 3 * 9 / 1e9)
