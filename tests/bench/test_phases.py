"""The benchmarks' optimisation step is the training loop's, on every phase."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from bench.phases import Optimisation, made_up, made_up_phase
from fastdreamer.config import load_config
from fastdreamer.device import Backend
from fastdreamer.latents.batch import align
from fastdreamer.run.checkpoint import load_checkpoint
from fastdreamer.run.metrics import read_metrics
from fastdreamer.training.loop import fit

BACKEND = Backend(torch.device("cpu"), "fp32")
STEPS = ["phase1.steps=4", "phase2.steps=4", "phase3.steps=4", "phase1.accumulate=2"]


@pytest.mark.parametrize("number", [1, 2, 3])
def test_steps_are_those_of_the_training_loop(number: int, tmp_path: Path) -> None:
    config = load_config("debug", STEPS)
    train = config.phase(number)
    trained, ours = made_up_phase(config, number, BACKEND), made_up_phase(config, number, BACKEND)
    before = {name: value.clone() for name, value in ours.model.state_dict().items()}
    fit(trained, config, train, tmp_path, BACKEND, "made up")
    optimisation = Optimisation(ours, train, BACKEND)
    losses = [float(optimisation.step()["loss"]) for _ in range(4)]
    logged = [row["loss"] for row in read_metrics(tmp_path)]
    assert len(logged) >= 3 and set(logged) <= set(losses)
    state = ours.model.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in trained.model.state_dict().items())
    moved = [name for name, value in before.items() if not torch.equal(value, state[name])]
    assert len(moved) > 10 and optimisation.number == 4
    averages = load_checkpoint(tmp_path / "checkpoints" / f"phase{number}").tensors["ema"]
    assert all(torch.equal(value, averages[name]) for name, value in optimisation.ema.state.items())
    assert any(not torch.equal(averages[name], state[name]) for name in moved)


def test_made_up_episodes_are_aligned_and_rewarded() -> None:
    config = load_config("debug", [])
    for episode in made_up(config):
        batch = align(episode, config.tokenizer.clock)
        assert batch.latents.shape[1] == 4 * config.dynamics.window and batch.target_valid.all()
        assert batch.rewards.any() and not batch.continues.all()
