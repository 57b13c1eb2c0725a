"""Engines on a CUDA GPU: built, compared, chosen and run there. Runs with make gpu."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from fastdreamer_engines import LIMITS
from test_cosmos import SHAPES

from fastdreamer.config import Config, DataConfig, EnginesConfig
from fastdreamer.tokenizer.dali import dali_available
from fastdreamer.tokenizer.engines.build_engines import build_engines
from fastdreamer.tokenizer.engines.installed import milliseconds, open_tokenizer
from fastdreamer.tokenizer.frozen import FrozenTokenizer
from fastdreamer.tokenizer.resample import resampler

TINY = dataclasses.replace(SHAPES[8], window=17)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_what_a_card_builds_it_serves(tmp_path: Path, precision: str) -> None:
    pytest.importorskip("diffusers", reason="builds the architecture")
    device = torch.device("cuda")
    settings = EnginesConfig(directory=str(tmp_path / "engines"), batches=(1, 2), precision=precision)
    config = Config(tokenizer=TINY, engines=settings)
    built = build_engines(config, device)
    assert built["refused"] == {} and {row["status"] for row in built["engines"]} == {"verified"}
    frames = np.random.default_rng(0).integers(0, 256, (90, 16, 16, 3), dtype=np.uint8)
    expected = FrozenTokenizer.from_config(TINY).encode_episode(frames)
    ways = ["torch", *(["dali"] if dali_available() else [])]
    for row in built["engines"]:
        named = dataclasses.replace(config, engines=dataclasses.replace(settings, backend=row["backend"]))
        tokenizer = open_tokenizer(named, device)
        found = tokenizer.encode_episode(frames)
        assert tokenizer.backend == row["backend"]
        assert (found - expected).norm() / expected.norm() <= LIMITS[precision]
        for way in ways:  # as `encode` does
            tokenizer.resampler = resampler(dataclasses.replace(named, data=DataConfig(resampler=way)), device)
            found = tokenizer.encode_episode(frames)
            assert (found - expected).norm() / expected.norm() <= LIMITS[precision], way


@pytest.fixture(scope="module")
def uint8_engines(tmp_path_factory: pytest.TempPathFactory) -> list[Config]:
    """A configuration an engine: each takes uint8 frames of 21 x 21, so that clips begin at odd addresses."""
    pytest.importorskip("diffusers", reason="builds the architecture")
    directory = str(tmp_path_factory.mktemp("root") / "engines")
    settings = EnginesConfig(directory=directory, batches=(1,), precision="fp16", resample_inside=True)
    config = Config(tokenizer=TINY, engines=settings, data=DataConfig(frame_size=21))
    built = build_engines(config, torch.device("cuda"))
    assert built["refused"] == {}
    backends = [row["backend"] for row in built["engines"]]
    return [dataclasses.replace(config, engines=dataclasses.replace(settings, backend=name)) for name in backends]


@pytest.mark.gpu
def test_an_engine_reads_a_clip_wherever_in_memory_it_begins(uint8_engines: list[Config]) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (90, 21, 21, 3), dtype=np.uint8)
    expected = FrozenTokenizer.from_config(TINY).encode_episode(frames)
    for config in uint8_engines:
        found = open_tokenizer(config, torch.device("cuda")).encode_episode(frames)
        assert (found - expected).norm() / expected.norm() <= LIMITS["fp16"], config.engines.backend


@pytest.mark.gpu
def test_an_engine_gives_the_same_on_another_stream_and_is_no_faster_there(uint8_engines: list[Config]) -> None:
    """TensorRT says that it waits for the whole GPU on the default stream, which all of ours runs on."""
    for config in uint8_engines:
        device, shape = torch.device("cuda"), (1, TINY.window)
        engine = open_tokenizer(config, device).encoder
        inputs = torch.randint(0, 256, engine.spec.inputs(shape), dtype=torch.uint8, device=device)
        with torch.inference_mode():
            plain, default_ms = engine.run(inputs), milliseconds(engine, shape, device)
            with torch.cuda.stream(torch.cuda.Stream()):
                torch.cuda.current_stream().wait_stream(torch.cuda.default_stream())
                other, other_ms = engine.run(inputs), milliseconds(engine, shape, device)
        torch.cuda.synchronize()
        name = config.engines.backend
        assert (other - plain).norm() / plain.norm() <= LIMITS["fp16"], name
        assert default_ms <= other_ms + 1, f"{name}: {default_ms} ms, on a stream of its own {other_ms} ms"


@pytest.mark.gpu
def test_eager_on_a_card_equals_eager_on_a_cpu_in_fp32() -> None:
    pytest.importorskip("diffusers", reason="builds the architecture")
    frames = np.random.default_rng(0).integers(0, 256, (40, 20, 20, 3), dtype=np.uint8)
    expected = FrozenTokenizer.from_config(TINY).encode_episode(frames)
    found = FrozenTokenizer.from_config(TINY, "cuda").encode_episode(frames)
    assert (found - expected).norm() / expected.norm() <= LIMITS["fp32"]
