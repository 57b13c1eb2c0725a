"""Gates between phases: what did not work is not built on, unless forced, and then every checkpoint says so."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from fastdreamer.cli import main
from fastdreamer.config import Config
from fastdreamer.dynamics.world_model import WorldModel
from fastdreamer.errors import UserError
from fastdreamer.health.watch import read_flags
from fastdreamer.latents.store import LatentStore
from fastdreamer.latents.synthetic import write_synthetic_store
from fastdreamer.recordings.actions import action_space
from fastdreamer.run.checkpoint import load_checkpoint
from fastdreamer.run.directory import RunDirectory
from fastdreamer.settings import dump_config
from fastdreamer.tools.diagnosis.gates import Gates, rewards_differ
from fastdreamer.training.models import agent_from, world_model_from
from fastdreamer.training.train import train

from .test_resume import checkpoints_equal
from .test_watch import dead_reward_head, learnable, one_action, rewrite

CPU = torch.device("cpu")
Small = Callable[..., Config]
MakeRun = Callable[..., Path]
RATIO, SPREAD, REACH = "error under shuffled actions", "spread of predicted rewards", "reach of a dream"


def deaf(patch: pytest.MonkeyPatch) -> None:
    """The world model hears no action: all are the first one to it."""
    plain = WorldModel.embed_actions
    patch.setattr(WorldModel, "embed_actions", lambda self, a, *rest: plain(self, torch.zeros_like(a), *rest))


def test_a_world_model_that_ignores_actions_is_refused_on_one_line_with_exit_code_2(
    small: Small, new_run: MakeRun, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = small("phase1.learning_rate=0.01")
    run = new_run(config)
    dump_config(config, run / "config.yaml")
    train(config, run, 1)
    deaf(monkeypatch)
    capsys.readouterr()
    assert main(["train", "--phase", "2", "--run-dir", str(run)]) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and "phase 2 is refused: error under shuffled actions is 1.000" in said[0]
    assert "does not listen to actions" in said[0] and "--force" in said[0]
    assert not RunDirectory(run).has_phase(2) and not (run / "flags.json").exists()


def test_what_was_forced_stands_in_the_result_the_flags_and_every_checkpoint_after(
    small: Small, new_run: MakeRun, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = small("phase1.learning_rate=0.01")
    run = new_run(config)
    train(config, run, 1)
    deaf(monkeypatch)
    result = train(config, run, 2, gate=Gates(force=True))
    assert result["forced"] == [f"phase 2: {RATIO}"] and result["gates"][RATIO].endswith("red")
    assert "phase 2: forced past a gate: error under shuffled actions is" in capsys.readouterr().err
    for phase in (2, 3):
        if phase == 3:
            assert train(config, run, 3)["forced"] == [f"phase 2: {RATIO}"]
        forced = load_checkpoint(run / "checkpoints" / f"phase{phase}").state["forced"]
        assert [(one["phase"], one["name"], one["verdict"]) for one in forced] == [(2, RATIO, "red")]
    assert [(one["step"], one["forced"]) for one in read_flags(run)["phase2"] if one["name"] == RATIO] == [(0, True)]
    assert RATIO not in [one["name"] for one in read_flags(run).get("phase3", [])]


@pytest.mark.slow
def test_a_world_model_that_listens_passes_and_nothing_is_trained_otherwise_for_it(
    small: Small, new_run: MakeRun
) -> None:
    config = small("phase1.learning_rate=0.01", "phase1.steps=60", "phase1.checkpoint_every=60", "dynamics.dim=32")
    free = new_run(config)
    rewrite(free, learnable)
    train(config, free, 1)
    gated = free.with_name("gated")
    shutil.copytree(free, gated)
    result = train(config, gated, 2, gate=Gates())
    low = float(result["gates"][RATIO].partition("(")[2].partition(" ")[0])
    assert low > 1 and result["gates"][RATIO].endswith(": ok") and "forced" not in result
    assert "gates" not in train(config, free, 2)
    assert checkpoints_equal(gated / "checkpoints" / "phase2", free / "checkpoints" / "phase2")


@pytest.mark.slow
def test_a_reward_head_that_says_one_thing_is_refused(
    small: Small, new_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small("phase2.learning_rate=0.005", "phase2.steps=80", "heads.reward_reads=transition")
    run = new_run(config)
    rewrite(run, learnable)
    for phase in (1, 2):
        train(config, run, phase)
    store, parent = LatentStore.open(run / "store"), RunDirectory(run).load(2, config)
    checks = {check.name: check for check in Gates()(config, 3, parent, store, CPU)}
    assert [check.verdict for check in checks.values()] == ["ok", "ok"] and checks.keys() == {REACH, SPREAD}
    world, agent = world_model_from(parent, config, CPU), agent_from(parent, config, CPU)
    agent.reward.net.out.weight.data.mul_(1e-6)
    dead = rewards_differ(config, world, agent, store)
    assert dead.verdict == "red" and "train phase 2 longer" in dead.remedy
    dead_reward_head(monkeypatch)  # was never trained: the phase itself says so
    config = small()
    other = new_run(config, "other")
    for phase in (1, 2):
        train(config, other, phase)
    with pytest.raises(UserError, match="nothing to improve"):
        train(config, other, 3, gate=Gates(force=True))


def test_dreams_longer_than_anything_trained_on_are_refused_but_for_banded_attention(
    small: Small, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for context, is_refused in ((5, True), (3, False)):
        config = small("imagination.horizon=4", f"dynamics.context={context}", "phase2.learning_rate=0.01")
        run = tmp_path / f"context{context}"
        write_synthetic_store(run / "store", config.tokenizer.clock, action_space(config.data.env), 3, 4, 0)
        train(config, run, 1)
        result = train(config, run, 2, gate=Gates())
        assert "none of 1 held-out episodes has a whole window" in result["gates"][RATIO]
        assert result["gates"][RATIO].endswith(": not measured") and "gate: error under" in capsys.readouterr().out
        store, parent = LatentStore.open(run / "store"), RunDirectory(run).load(2, config)
        if is_refused:
            with pytest.raises(UserError, match="phase 3 is refused: reach of a dream is 5 steps .* the 4 trained on"):
                Gates()(config, 3, parent, store, CPU)
        else:
            assert Gates()(config, 3, parent, store, CPU)[0].verdict == "ok"


def test_actions_that_are_all_alike_measure_nothing(small: Small, new_run: MakeRun) -> None:
    config = small()
    run = new_run(config)
    rewrite(run, one_action)
    train(config, run, 1)
    assert train(config, run, 2, gate=Gates())["gates"][RATIO] == "all held-out actions are alike: not measured"
