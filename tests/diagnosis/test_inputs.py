"""What goes into the encoder and what comes out: limits on tensors."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fastdreamer.shapes import LatentClock
from fastdreamer.tools.diagnosis.inputs import input_range, output
from fastdreamer.tools.diagnosis.loaded_phase import devices

CLOCK = LatentClock(8, 33)
CLIP = torch.linspace(-1, 1, 3 * 33 * 4).reshape(1, 3, 33, 2, 2)


@pytest.mark.parametrize(
    ("clip", "verdict"),
    [(CLIP, "ok"), (CLIP * 127.5, "red"), (CLIP * 0 - 1, "red"), (CLIP / 2 + 0.5, "amber")],
    ids=["right", "not scaled", "one colour", "never below 0"],
)
def test_frames_are_scaled_to_plus_minus_one(clip: Tensor, verdict: str) -> None:
    found = input_range(clip)
    assert found.verdict == verdict and ("[-1, 1]" in found.remedy) == (verdict != "ok")


@pytest.mark.parametrize(
    ("latents", "names"),
    [
        (torch.randn(2, 5, 16, 16), []),
        (torch.randn(2, 4, 16, 16), ["latent steps"]),
        (torch.randn(2, 5, 64, 16), ["tokenizer output"]),
        (torch.zeros(2, 5, 16, 16), ["raw latents"]),
        (torch.full((2, 5, 16, 16), torch.nan), ["raw latents"]),
    ],
)
def test_what_the_tokenizer_gives(latents: Tensor, names: list[str]) -> None:
    found = [check for check in output(latents, 33, CLOCK) if check.is_raised]
    assert [check.name for check in found] == names and all(check.remedy for check in found)


def test_a_model_on_another_device_is_named() -> None:
    modules = {"here": torch.nn.Linear(2, 2), "there": torch.nn.Linear(2, 2, device="meta")}
    verdicts = {check.name: check.verdict for check in devices(modules, torch.device("cpu"))}
    assert verdicts == {"here: device": "ok", "there: device": "red"}
