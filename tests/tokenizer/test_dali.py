"""DALI's graph on the CPU against torch, what it gives to torch, and the GPU's graph as far as it goes without one."""

from __future__ import annotations

import dataclasses
import functools
import sys

import pytest
import torch
from torch import Tensor

from fastdreamer.config import Config, DataConfig, TokenizerConfig
from fastdreamer.errors import UserError
from fastdreamer.tokenizer.dali import DaliResampler, dali_available, nvdec_blocks
from fastdreamer.tokenizer.frozen import FrozenTokenizer
from fastdreamer.tokenizer.resample import Resampler, TorchResampler, resampler

pytest.importorskip("nvidia.dali", reason="DALI is for Linux on x86-64")
from fastdreamer.tokenizer import dali_graph

CPU = torch.device("cpu")
LEVEL = 2 / 255  # one of 256 levels, in [-1, 1]
SHAPES = [(64, 64, 256), (360, 640, 256), (50, 70, 64), (33, 47, 128), (16, 16, 256), (300, 300, 64), (64, 64, 64)]


def pictures(kind: str, shape: tuple[int, int, int, int]) -> Tensor:
    """Windows (b, t, h, w, 3) of noise, a gradient, or black and white squares of one and of three pixels."""
    batch, frames, height, width = shape
    y, x = torch.arange(height)[:, None], torch.arange(width)[None]
    plane = {
        "noise": torch.zeros(height, width),
        "gradient": (x + y) * 255 // (height + width - 2),
        "squares": (x + y) % 2 * 255,
        "blocks": (x // 3 + y // 3) % 2 * 255,
    }[kind]
    windows = plane.to(torch.uint8)[None, None, :, :, None].repeat(batch, frames, 1, 1, 3)
    noise = torch.randint(0, 256, windows.shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return noise if kind == "noise" else windows


def unclamped(windows: Tensor, size: int) -> Tensor:
    images = windows.flatten(0, 1).movedim(-1, 1).float()
    return torch.nn.functional.interpolate(images, (size, size), mode="bicubic", antialias=True)


@pytest.mark.parametrize("kind", ["noise", "gradient", "squares", "blocks"])
@pytest.mark.parametrize(("height", "width", "size"), SHAPES)
def test_dali_equals_torch_to_the_very_border(height: int, width: int, size: int, kind: str) -> None:
    windows = pictures(kind, (2, 3, height, width))
    given = DaliResampler(size, "fp32", CPU)(windows)
    difference = (given - TorchResampler(size, "fp32", CPU)(windows)).abs()
    # By whole factors the weights are torch's; by others DALI reads them from a table: measured 0.34 of a level.
    bound = 1e-3 if size % height == size % width == 0 else 0.5
    assert difference.max() <= bound * LEVEL


def test_the_overshoot_of_the_cubic_is_clamped() -> None:
    windows = pictures("blocks", (1, 2, 64, 64))
    raw = unclamped(windows, 256)
    assert raw.min() < -10 and raw.max() > 265
    given = DaliResampler(256, "fp32", CPU)(windows)
    assert given.min() == -1 and given.max() == 1


def test_batches_and_lengths_may_change_from_call_to_call() -> None:
    dali, reference = DaliResampler(64, "fp32", CPU, batch=3), TorchResampler(64, "fp32", CPU)
    for batch, frames in ((3, 33), (1, 1), (2, 33), (5, 2), (1, 7)):  # five is more than it was made for
        windows = pictures("noise", (batch, frames, 32, 32))
        given = dali(windows)
        assert given.shape == (batch, 3, frames, 64, 64) and given.is_contiguous() and given.dtype == torch.float32
        assert (given - reference(windows)).abs().max() <= LEVEL
    sliced = pictures("noise", (2, 9, 40, 40))[:, 1::2, 4:36, :32]  # not contiguous
    assert (dali(sliced) - reference(sliced)).abs().max() <= LEVEL


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
@pytest.mark.parametrize("made", [DaliResampler, TorchResampler])
def test_half_precision_costs_its_rounding_alone(made: type, precision: str) -> None:
    windows = pictures("noise", (2, 3, 32, 32))
    full = TorchResampler(64, "fp32", CPU)(windows)
    half = made(64, precision, CPU)(windows)
    dtype = {"fp16": torch.float16, "bf16": torch.bfloat16}[precision]
    assert half.dtype == dtype and half.is_contiguous() and isinstance(made(64, precision, CPU), Resampler)
    assert (half.float() - full).abs().max() <= torch.finfo(dtype).eps / 2 + 1e-5


def test_a_result_that_is_kept_is_not_overwritten() -> None:
    dali, windows = DaliResampler(64, "fp32", CPU), pictures("noise", (3, 5, 32, 32))
    results = [dali(windows), dali(windows[:1]), dali(windows)]
    copies = [result.clone() for result in results]
    assert len({result.data_ptr() for result in results}) == 3
    for turn in range(50):
        dali(torch.full((1 + turn % 3, 5, 32, 32, 3), turn, dtype=torch.uint8))
    del dali
    assert all(torch.equal(result, copy) for result, copy in zip(results, copies, strict=True))


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_result_is_dalis_own_memory(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    build = dali_graph.resample_pipeline

    class Watched:
        def __init__(self, *arguments: object) -> None:
            self.pipeline = build(*arguments)

        def run(self, **inputs: object) -> object:
            outputs = self.pipeline.run(**inputs)
            seen.extend([inputs["windows"].ctypes.data, outputs[0].as_tensor().data_ptr()])
            return outputs

    monkeypatch.setattr(dali_graph, "resample_pipeline", Watched)
    windows = pictures("noise", (2, 5, 32, 32))
    assert [windows.data_ptr(), DaliResampler(64, precision, CPU)(windows).data_ptr()] == seen


def test_dali_reads_the_input_where_it_lies() -> None:
    pipeline = dali_graph.resample_pipeline((8, 8), 16, False, None, 1, 2)
    windows = pictures("noise", (2, 1, 8, 8))
    pipeline.feed_input(dali_graph.WINDOWS, windows.numpy())
    windows.fill_(255)
    assert torch.from_dlpack(pipeline.run()[0].as_tensor()).min() == 1


def test_latents_are_the_same_whichever_resampled() -> None:
    config = TokenizerConfig(
        weights="random", frames_per_latent=8, window=17, image_size=64, pool=2,
        encoder_channels=(16, 16, 16, 16), decoder_channels=(8, 8, 8, 8),
    )  # fmt: skip
    tokenizer = FrozenTokenizer.from_config(config)
    windows = pictures("noise", (1, 17, 50, 70))
    resampled = [made(64, "fp32", CPU)(given) for made, given in
                 ((TorchResampler, windows), (DaliResampler, windows), (TorchResampler, windows.flip(3)))]  # fmt: skip
    with torch.inference_mode():
        reference, dali, other = map(tokenizer.encoder.run, resampled)
    # Random weights answer mostly with their bias: what counts is the error beside what another picture changes.
    assert (dali - reference).norm() / (
        other - reference
    ).norm() <= 1e-3  # measured 5e-4; 3e-3 if the border is repeated


@pytest.mark.skipif(torch.cuda.is_available(), reason="what happens without a GPU")
@pytest.mark.parametrize("half", [False, True])
def test_the_cards_graphs_are_right_up_to_the_missing_card(half: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def resample() -> None:
        dali_graph.resample_pipeline((64, 64), 256, half, 0, 1, 4)

    def decode() -> None:
        dali_graph.decode_pipeline(64, 0)

    devices = []
    for name in ("external_source", "constant"):
        plain = getattr(dali_graph.fn, name)
        monkeypatch.setattr(dali_graph.fn, name, lambda plain=plain, **k: devices.append(k["device"]) or plain(**k))
    for build in (resample, decode):
        with pytest.raises(RuntimeError, match="CUDA is not available"):
            build()
    assert devices == ["gpu", "gpu"]
    operators = [("resize", resample), ("crop", resample), ("crop_mirror_normalize", resample)]
    for name, build in [*operators, ("constant", resample), ("external_source", resample)]:
        with monkeypatch.context() as planted:
            planted.setattr(dali_graph.fn, name, functools.partial(getattr(dali_graph.fn, name), typo=1))
            with pytest.raises((KeyError, TypeError, ValueError), match="typo"):
                build()
    with monkeypatch.context() as planted:
        inputs = dali_graph.fn.experimental.inputs
        planted.setattr(inputs, "video", functools.partial(inputs.video, typo=1))
        with pytest.raises((KeyError, ValueError), match="typo"):
            decode()


def test_the_setting_chooses_and_auto_on_a_cpu_is_torch() -> None:
    for wanted, name in (("auto", "torch"), ("torch", "torch"), ("dali", "dali")):
        chosen = resampler(Config(data=DataConfig(resampler=wanted)), CPU)
        assert chosen.name == name and chosen(pictures("noise", (1, 1, 8, 8))).shape == (1, 3, 1, 64, 64)


def test_without_dali_a_card_takes_torch_and_who_names_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = torch.device("cuda", 0)
    assert dali_available() and resampler(Config(), gpu).name == "dali"
    monkeypatch.setitem(sys.modules, "nvidia.dali", None)
    assert not dali_available() and resampler(Config(), gpu).name == "torch"
    with pytest.raises(UserError, match=r"^data.resampler=dali needs NVIDIA DALI, which is not installed; .*\[cuda\]"):
        resampler(Config(data=DataConfig(resampler="dali")), CPU)
    with pytest.raises(UserError, match=r"^data.decoder=nvdec needs NVIDIA DALI"):
        next(nvdec_blocks(dataclasses.MISSING, 8))


@pytest.mark.parametrize("made", [DaliResampler, TorchResampler])
@pytest.mark.parametrize(
    "windows", [torch.zeros(1, 2, 8, 8, 3), torch.zeros(1, 2, 3, 8, 8).byte(), torch.zeros(0, 2, 8, 8, 3).byte()]
)
def test_other_shapes_and_types_are_refused_in_one_line(made: type, windows: Tensor) -> None:
    with pytest.raises(UserError, match=r"^windows are torch\.[a-z0-9]+ \(.*\); give uint8 \(b, t, h, w, 3\)"):
        made(64, "fp32", CPU)(windows)
