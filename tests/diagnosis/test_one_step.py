"""The one-step error is measured of the step that dreams sample, beside the conditional mean."""

from __future__ import annotations

from dataclasses import replace

import pytest
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


def test_no_window_keeps_its_own_action_and_one_window_is_compared_with_copying_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = load_config("debug", ["tokenizer={frames_per_latent: 1, window: 1}", "dynamics.dim=16"])
    world = WorldModel.build(config, (5,)).eval()
    seen: list[torch.Tensor] = []
    real = world.embed_actions

    def noted(actions: torch.Tensor, *rest: torch.Tensor) -> torch.Tensor:
        seen.append(actions)
        return real(actions, *rest)

    monkeypatch.setattr(world, "embed_actions", noted)
    for windows in (1, 2, 5):
        batch = replace(
            Batch.blank(windows, 3, 1, 1),
            latents=torch.randn(windows, 3, 16, 16),
            actions=torch.arange(windows)[:, None, None, None].expand(-1, 3, 1, 1) % 5,
        )
        seen.clear()
        with torch.no_grad():
            errors = next_step_errors(world, batch)
        assert (errors["mean"][1] == float("inf")) is (windows == 1)
        shuffled = [a for a in seen if not torch.equal(a, batch.actions)]
        assert all((a[:, -1] != batch.actions[:, -1]).all() for a in shuffled) and bool(shuffled) is (windows > 1)
    alone = one_step({"mean": (0.1, float("inf"), 0.2), "sample": (0.1, float("inf"), 0.2)})
    assert alone.verdict == "ok" and "shuffled" not in alone.value


def test_one_step_is_raised_where_copying_or_a_wrong_action_does_as_well() -> None:
    sample = (0.3, 0.4, 0.2)
    for mean, verdict in (((0.1, 0.2, 0.2), "ok"), ((0.2, 0.3, 0.1), "amber"), ((0.2, 0.2, 0.3), "amber")):
        assert one_step({"mean": mean, "sample": sample}).verdict == verdict
    assert one_step({"mean": (float("nan"), 0.2, 0.2), "sample": sample}).verdict == "red"
