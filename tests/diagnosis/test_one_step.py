"""The one-step error is measured of the step that dreams sample, beside the conditional mean."""

from __future__ import annotations

from dataclasses import replace

import torch

from fastdreamer.config import load_config
from fastdreamer.dynamics.world_model import WorldModel
from fastdreamer.latents.batch import Batch
from fastdreamer.tools.diagnosis.dynamics_checks import next_step_errors, one_step


def test_the_sampled_step_takes_as_many_passes_as_imagination() -> None:
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
        with torch.no_grad():
            errors = next_step_errors(world, batch)
        found["mean", steps], found["sample", steps] = errors["mean"], errors["sample"]
    assert found["mean", 1] == found["mean", 4] and found["sample", 1] != found["sample", 4]


def test_one_step_is_raised_where_copying_or_a_wrong_action_does_as_well() -> None:
    sample = (0.3, 0.4, 0.2)
    for mean, verdict in (((0.1, 0.2, 0.2), "ok"), ((0.2, 0.3, 0.1), "amber"), ((0.2, 0.2, 0.3), "amber")):
        assert one_step({"mean": mean, "sample": sample}).verdict == verdict
    assert one_step({"mean": (float("nan"), 0.2, 0.2), "sample": sample}).verdict == "red"
