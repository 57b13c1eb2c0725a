"""Engines on a CUDA GPU: built, compared, chosen and run there. Runs with make gpu."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from fastdreamer_engines import LIMITS
from test_cosmos import SHAPES

from fastdreamer.config import Config, EnginesConfig
from fastdreamer.tokenizer.engines.build_engines import build_engines
from fastdreamer.tokenizer.engines.installed import open_tokenizer
from fastdreamer.tokenizer.frozen import FrozenTokenizer

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
    frames = np.random.default_rng(0).integers(0, 256, (90, 20, 20, 3), dtype=np.uint8)
    expected = FrozenTokenizer.from_config(TINY).encode_episode(frames)
    for row in built["engines"]:
        named = dataclasses.replace(config, engines=dataclasses.replace(settings, backend=row["backend"]))
        tokenizer = open_tokenizer(named, device)
        found = tokenizer.encode_episode(frames)
        assert tokenizer.backend == row["backend"]
        assert (found - expected).norm() / expected.norm() <= LIMITS[precision]


@pytest.mark.gpu
def test_eager_on_a_card_equals_eager_on_a_cpu_in_fp32() -> None:
    pytest.importorskip("diffusers", reason="builds the architecture")
    frames = np.random.default_rng(0).integers(0, 256, (40, 20, 20, 3), dtype=np.uint8)
    expected = FrozenTokenizer.from_config(TINY).encode_episode(frames)
    found = FrozenTokenizer.from_config(TINY, "cuda").encode_episode(frames)
    assert (found - expected).norm() / expected.norm() <= LIMITS["fp32"]
