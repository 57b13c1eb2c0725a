"""The one-step error is measured of the step that dreams sample, beside the conditional mean."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch

from bench.imagined_reward import one_step
from fastdreamer.config import load_config
from fastdreamer.dynamics.world_model import WorldModel
from fastdreamer.latents.batch import Batch


def printed(world: WorldModel, batch: Batch, capsys: pytest.CaptureFixture[str]) -> list[tuple[str, str]]:
    with torch.no_grad():
        one_step(world, batch)
    return re.findall(r"one step, ([\w ]+): error ([\d.]+), last action shuffled", capsys.readouterr().out)


def test_the_sampled_step_takes_as_many_passes_as_imagination(capsys: pytest.CaptureFixture[str]) -> None:
    config = load_config("debug", ["tokenizer={frames_per_latent: 1, window: 1}", "dynamics.dim=16"])
    torch.manual_seed(0)
    world = WorldModel.build(config, (5,)).eval()
    torch.nn.init.normal_(world.readout.weight)
    flags = torch.ones(4, 3, dtype=torch.bool)
    chunks, known = torch.randint(5, (4, 3, 1, 1)), flags[..., None]
    batch = Batch(
        torch.randn(4, 3, 16, 16), torch.zeros(4, 3, dtype=torch.int64), flags, chunks, known, chunks, known,
        torch.zeros(4, 3), torch.ones(4, 3), flags, flags[:, 0], torch.zeros(4, dtype=torch.int64),
    )  # fmt: skip
    found = {}
    for steps in (1, 4):
        world.forcing = replace(world.forcing, sample_steps=steps)
        (mean, found["mean", steps]), (sampled, found["sampled", steps]) = printed(world, batch, capsys)
        assert (mean, sampled) == ("mean", f"sampled in {steps}")
    assert found["mean", 1] == found["mean", 4] and found["sampled", 1] != found["sampled", 4]
