"""A step whose loss or gradient is not finite changes nothing, is counted, and too many in a row stop the run."""

from __future__ import annotations

import copy
import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fastdreamer.cli import main
from fastdreamer.config import Config, load_config
from fastdreamer.errors import Stopped
from fastdreamer.latents.store import LatentStore
from fastdreamer.run.checkpoint import load_checkpoint
from fastdreamer.run.directory import RunDirectory
from fastdreamer.run.metrics import read_metrics
from fastdreamer.settings import dump_config
from fastdreamer.training.build import build_phase
from fastdreamer.training.step import Update
from fastdreamer.training.train import train
from fastdreamer.training.world_model_phase import WorldModelPhase

from .conftest import BACKEND
from .test_resume import StopAfter, checkpoints_equal, timeless

Small = Callable[..., Config]
MakeRun = Callable[..., Path]


def both(loss: Tensor, parameter: nn.Parameter) -> Tensor:
    return loss * math.nan


def loss_alone(loss: Tensor, parameter: nn.Parameter) -> Tensor:
    return loss + math.inf


def gradient_alone(loss: Tensor, parameter: nn.Parameter) -> Tensor:
    return loss + (parameter - parameter.detach()).sum().sqrt()  # 0, with an infinite slope


def held(update: Update) -> dict[str, Tensor]:
    """All that a step may change, but for the average, the counts and what is random."""
    found = {f"model {name}": value for name, value in update.phase.model.state_dict().items()}
    for number, optimizer in enumerate(update.optimizers):
        for index, entry in optimizer.state_dict()["state"].items():
            found |= {f"optimizer {number} {index} {name}": value for name, value in entry.items()}
    return {name: value.clone() for name, value in found.items()}


@pytest.fixture
def updates(small: Small, new_run: MakeRun) -> Callable[..., Update]:
    count = itertools.count()

    def made(number: int, *overrides: str) -> Update:
        config = small("imagination.critic_steps=0", f"phase{number}.accumulate=2", *overrides)
        run = RunDirectory(new_run(config, f"run{next(count)}"))
        for phase in range(1, number):
            train(config, run.path, phase)
        torch.manual_seed(0)
        parent = run.load(number - 1, config) if number > 1 else None
        phase = build_phase(config, number, LatentStore.open(run.path / "store"), parent, BACKEND)
        phase.model.train()
        return Update(phase, config.phase(number), BACKEND)

    return made


@pytest.mark.parametrize(
    ("number", "optimizer", "poison"),
    [
        (1, "muon", both),
        (1, "muon", gradient_alone),
        (1, "adamw", both),
        (2, "adamw", loss_alone),
        (3, "adamw", gradient_alone),
    ],
)
def test_a_step_that_is_not_finite_changes_nothing_but_the_count(
    updates: Callable[..., Update], number: int, optimizer: str, poison: Callable[..., Tensor]
) -> None:
    update = updates(number, f"phase{number}.optimizer={optimizer}")
    phase, calls = update.phase, 0
    plain = phase.loss

    def loss(work: Any, step: int) -> Any:
        nonlocal calls
        calls += 1
        value, figures = plain(work, step)
        return (poison(value, parameter) if calls % 2 else value), figures  # one of a step's two batches

    for step in range(2):
        update(step)
    parameter = next(iter(update.optimizers[-1].state))
    before, ema = held(update), copy.deepcopy(update.ema.state)
    phase.loss = loss  # type: ignore[method-assign]
    for step in range(2, 5):
        update(step)
    after = held(update)
    assert after.keys() == before.keys() and len(before) > 20
    assert [name for name in before if not torch.equal(after[name], before[name])] == []
    assert update.skips.read() == (3, 3) and float(update.skips.found) == 1
    assert all(bool(value.isfinite().all()) for value in update.ema.state.values())
    assert any(not torch.equal(value, ema[name]) for name, value in update.ema.state.items())
    phase.loss = plain  # type: ignore[method-assign]
    update(5)
    assert update.skips.read() == (3, 0)
    moved = [name for name, value in held(update).items() if not torch.equal(value, before[name])]
    assert any(name.startswith("model") for name in moved) and any("exp_avg" in name for name in moved)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_healthy_steps_are_those_of_optimisers_that_never_ask(updates: Callable[..., Update], optimizer: str) -> None:
    asking, other = (updates(1, f"phase1.optimizer={optimizer}") for _ in range(2))
    for one in other.optimizers:
        one.found_inf = None  # type: ignore[attr-defined]
    for step in range(3):
        asking(step)
        other(step)
    one, two = held(asking), held(other)
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=1e-6, atol=1e-7, msg=lambda text, n=name: f"{n}: {text}")


def poisoned(monkeypatch: pytest.MonkeyPatch, *steps: int) -> None:
    """Phase 1's loss is no number at these steps, counted from 0."""
    plain = WorldModelPhase.loss

    def loss(self: Any, work: Any, step: int) -> Any:
        value, figures = plain(self, work, step)
        return (value * math.nan if step in steps else value), figures

    monkeypatch.setattr(WorldModelPhase, "loss", loss)


def test_skipped_steps_are_counted_over_a_resume_as_without_one(
    small: Small, new_run: MakeRun, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = small("phase1.log_every=1", "phase1.steps=8", "phase1.max_skipped=4")
    straight, broken = new_run(config, "straight"), new_run(config, "broken")
    poisoned(monkeypatch, 1, 2, 3, 5)
    train(config, straight, 1)
    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        StopAfter(patch, 3)
        train(config, broken, 1)
    assert load_checkpoint(broken / "checkpoints" / "phase1").state["skipped"] == [2, 2]
    train(config, broken, 1, resume=True)
    assert checkpoints_equal(straight / "checkpoints" / "phase1", broken / "checkpoints" / "phase1")
    assert timeless(straight) == timeless(broken)
    rows = read_metrics(straight)
    assert [row["skipped_steps"] for row in rows] == [0, 1, 2, 3, 3, 4, 4, 4]
    assert [row["loss"] is None for row in rows] == [False, True, True, True, False, True, False, False]
    said = [line for line in capsys.readouterr().err.splitlines() if "skipped steps" in line]
    remedy = "lower phase1.learning_rate; 4 in a row stop the run"
    assert said == 2 * [f"phase 1: warning at step 2: skipped steps is 1 (expected 0): {remedy}"]
    assert (straight / "flags.json").read_text() == (broken / "flags.json").read_text()


def test_a_rate_that_explodes_stops_the_run_with_weights_that_are_finite_and_resume(
    small: Small, new_run: MakeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    overrides = ["phase1.max_skipped=3", "phase1.steps=40", "phase1.log_every=1"]
    config = small("phase1.learning_rate=1e20", *overrides)
    run = new_run(config)
    dump_config(small("phase1.learning_rate=1e20"), run / "config.yaml")
    assert main(["train", "--phase", "1", "--run-dir", str(run), *overrides]) == 2
    assert load_config(run / "config.yaml") == config  # with which the checkpoint was made
    lines = capsys.readouterr().err.splitlines()
    errors = [line for line in lines if line.startswith("fastdreamer: error:")]
    assert len(errors) == 1 and lines[-1] == errors[0]
    for part in ("phase 1 stopped at step", "last 3 steps was not finite", "--resume", "phase1.learning_rate below"):
        assert part in errors[0]
    saved = load_checkpoint(run / "checkpoints" / "phase1")
    assert f"at step {saved.step}:" in errors[0] and saved.step < 40
    assert saved.state["skipped"] == [3, 0]  # a resumed run may try as often again
    for group in ("model", "ema", "optimizer"):
        assert all(bool(value.isfinite().all()) for value in saved.tensors[group].values()), group
    raised = json.loads((run / "flags.json").read_text())["phase1"]
    assert {entry["group"] for entry in raised} == {"loss", "gradient"}
    assert all("phase1.learning_rate" in entry["remedy"] for entry in raised)
    with pytest.raises(Stopped, match=f"at step {saved.step + 3}:"):
        train(config, run, 1, resume=True)
    assert load_checkpoint(run / "checkpoints" / "phase1").state["skipped"] == [6, 0]


def test_a_run_goes_on_past_fewer_skipped_steps_than_stop_it(
    small: Small, new_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small("phase1.log_every=1", "phase1.max_skipped=3", "phase1.steps=8")
    poisoned(monkeypatch, 1, 2, 4, 5)
    run = new_run(config)
    figures = train(config, run, 1)["figures"]
    assert figures["skipped_steps"] == 4 and math.isfinite(figures["loss"])
    poisoned(monkeypatch, 3)
    with pytest.raises(Stopped, match="at step 4:"):
        train(config, new_run(config, "more"), 1)
