"""Early stopping of phase 2: the averages with the least held-out loss count, and looking for them changes nothing."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from fastdreamer.config import Config
from fastdreamer.errors import UserError
from fastdreamer.run.checkpoint import load_checkpoint
from fastdreamer.run.directory import RunDirectory
from fastdreamer.run.metrics import read_metrics
from fastdreamer.training.cloning_phase import AgentPhase
from fastdreamer.training.models import agent_from, prior_from
from fastdreamer.training.train import train
from tests.training.test_resume import StopAfter, checkpoints_equal

MakeRun = Callable[..., Path]
STEPS = "phase2.steps=20"


@pytest.fixture
def losses(monkeypatch: pytest.MonkeyPatch) -> Callable[[list[float]], None]:
    """Puts these held-out losses in place of those measured, a look each."""

    def put(given: list[float]) -> None:
        left: Iterator[float] = iter(given)
        monkeypatch.setattr(AgentPhase, "held_out_loss", lambda phase: next(left))

    return put


def test_looking_changes_nothing_and_keeps_the_averages_of_the_best_look(
    small: Callable[..., Config], new_run: MakeRun
) -> None:
    plain, keeps = small(STEPS), small(STEPS, "phase2.patience=1", "phase2.checkpoint_every=1")
    runs = [RunDirectory(new_run(plain, "plain")), RunDirectory(new_run(keeps, "keeps"))]
    for config, run in zip((plain, keeps), runs, strict=True):
        train(config, run.path, 1)
        train(config, run.path, 2)
    ours, theirs = (load_checkpoint(run.checkpoints(2)) for run in runs)
    for group in ("model", "ema", "optimizer", "random"):
        assert all(torch.equal(tensor, theirs.tensors[group][name]) for name, tensor in ours.tensors[group].items())
    assert "best" not in ours.tensors and ours.averages is ours.tensors["ema"]
    loss, step, waited = theirs.state["best"]
    assert math.isfinite(loss) and 0 < step <= 20 and waited == 20 - step


def test_the_best_averages_are_those_that_act_and_that_phase_3_builds_on(
    small: Callable[..., Config], new_run: MakeRun, losses: Callable[[list[float]], None]
) -> None:
    config = small(STEPS, "phase2.patience=1", "phase2.checkpoint_every=3")
    run = RunDirectory(new_run(config))
    train(config, run.path, 1)
    losses([3.0, 2.0, 1.0] + [2.0, math.nan] * 9)
    train(config, run.path, 2)
    end = load_checkpoint(run.checkpoints(2))
    assert end.step == 20 and end.state["best"] == [1.0, 3, 17]
    assert any(not torch.equal(end.tensors["ema"][k], v) for k, v in end.tensors["best"].items())
    for part in (agent_from, prior_from):
        own = part(end, config, torch.device("cpu")).state_dict()
        prefix = "agent." if part is agent_from else "agent.policy."
        assert all(torch.equal(v, end.tensors["best"][prefix + k]) for k, v in own.items())


def test_a_phase_ends_after_its_patience_and_resumes_to_the_same_end(
    small: Callable[..., Config],
    new_run: MakeRun,
    losses: Callable[[list[float]], None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = small(STEPS, "phase2.patience=0.25")
    straight, broken = new_run(config, "straight"), new_run(config, "broken")
    told = [3.0, 2.0, 1.0, 1.5, 1.0, 2.0, 1.1, 1.2]
    for run in (straight, broken):
        train(config, run, 1)
    losses(told)
    assert train(config, straight, 2)["steps"] == 8
    assert "phase 2: held-out loss is least at step 3, whose averages count; ended at 8" in capsys.readouterr().out
    losses(told)
    with pytest.raises(SystemExit), monkeypatch.context() as patch:
        StopAfter(patch, 5)
        train(config, broken, 2)
    train(config, broken, 2, resume=True)
    assert checkpoints_equal(*(RunDirectory(run).checkpoints(2) for run in (straight, broken)))
    assert read_metrics(straight)[-1]["best_step"] == 3
    train(config, straight, 2, resume=True)  # nothing is left to do, and no loss is asked for
    assert RunDirectory(straight).step(2) == 8


def test_looks_that_measure_nothing_neither_end_a_phase_nor_count_as_waiting(
    small: Callable[..., Config],
    new_run: MakeRun,
    losses: Callable[[list[float]], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = small(STEPS, "phase2.patience=0.25")
    run = new_run(config)
    train(config, run, 1)
    losses([math.nan] * 17 + [1.0, 2.0, 3.0])
    assert train(config, run, 2)["steps"] == 20 and "ended at" not in capsys.readouterr().out
    assert load_checkpoint(run / "checkpoints" / "phase2").state["best"] == [1.0, 18, 2]


def test_patience_needs_no_held_out_play(small: Callable[..., Config], new_run: MakeRun) -> None:
    config = small(STEPS, "phase2.patience=0.1")
    run = new_run(config)
    train(config, run, 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fastdreamer.training.build.held_out_batch", lambda *a: None)
        assert train(config, run, 2)["steps"] == 20


def test_the_held_out_loss_counts_every_head_alike_but_the_continuation(
    small: Callable[..., Config], new_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[float, dict[str, float]]] = []
    inner = AgentPhase.held_out_loss

    def note(phase: AgentPhase) -> float | None:
        loss = inner(phase)
        assert loss is not None
        seen.append((loss, {name: float(value) for name, value in phase.check().items()}))
        return loss

    monkeypatch.setattr(AgentPhase, "held_out_loss", note)
    config = small(STEPS, "phase2.patience=1")
    run = new_run(config)
    train(config, run, 1)
    train(config, run, 2)
    loss, figures = seen[-1]
    product = figures["loss/policy"] * figures["loss/reward"] * figures["loss/value"]
    assert loss == pytest.approx(math.log(product), abs=1e-5)


def test_patience_is_of_phase_2_alone() -> None:
    from fastdreamer.config import load_config

    with pytest.raises(UserError, match="patience"):
        load_config("debug", ["phase1.patience=0.5"])
