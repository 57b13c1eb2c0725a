"""The engine interface and its plain implementation."""

from __future__ import annotations

import pytest
import torch
from fastdreamer_engines import ENGINES, EagerEncoder, build_engine
from torch import nn


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_eager_runs_the_module_and_returns_float32(precision: str) -> None:
    module = nn.Conv3d(3, 16, 1).requires_grad_(False)
    frames = torch.rand(2, 3, 1, 8, 8)
    engine = build_engine("eager", module, precision)
    latents = engine.encode(frames)
    assert latents.dtype == torch.float32 and (engine.name, engine.precision) == ("eager", precision)
    error = (latents - module(frames)).abs().max()
    assert error == 0 if precision == "fp32" else 0 < error < 0.05


def test_unknown_engines_and_precisions_are_refused() -> None:
    with pytest.raises(ValueError, match="no engine 'fast'; known are eager"):
        build_engine("fast", nn.Identity())
    with pytest.raises(ValueError, match="fp16"):
        EagerEncoder(nn.Identity(), "fp16")


def test_another_engine_can_stand_behind_the_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ENGINES, "other", EagerEncoder)
    assert isinstance(build_engine("other", nn.Identity()), EagerEncoder)
