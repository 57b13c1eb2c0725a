"""`evaluate_policies` where data.env is Minecraft: on a stand-in for MineStudio in worker processes, or nowhere."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from envs.pretend import Machine, forget_stand_ins

from evaluation.test_evaluate import StandIn, copy_of, tiny_run
from fastdreamer.config import Config
from fastdreamer.envs.pool import EnvPool
from fastdreamer.errors import UserError
from fastdreamer.evaluation import evaluate as module
from fastdreamer.evaluation.closed_loop import RandomPolicy, play
from fastdreamer.evaluation.environments import waves
from fastdreamer.recordings.actions import action_space
from fastdreamer.run.directory import RunDirectory
from fastdreamer.training.train import train


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("runs") / "treechop"
    run_dir.mkdir()
    config = tiny_run(run_dir, "data.env=minerl_treechop")
    for phase in (1, 2):
        train(config, run_dir, phase)
    return run_dir


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    forget_stand_ins()
    yield Machine(tmp_path / "machine", monkeypatch)
    forget_stand_ins()


def settings(config: Config, **changes: Any) -> Config:
    return replace(config, evaluation=replace(config.evaluation, **changes))


def evaluated(run_dir: Path, config: Config, phases: list[int]) -> dict[str, Any]:
    return module.evaluate_policies(config, RunDirectory(run_dir), phases, torch.device("cpu"))


def test_random_play_of_two_short_episodes(machine: Machine) -> None:
    machine.install_minestudio()
    space = action_space("minerl_treechop")
    with EnvPool("minerl_treechop", [7, 8], 12) as pool:
        policy = RandomPolicy(space.sizes, 4, [7, 8])
        played = play(policy, pool, None, chunk=4, execute=4, max_steps=12, name="random")
        again = play(policy, pool, None, chunk=4, execute=4, max_steps=12, name="random")
    assert played.lengths.tolist() == [12, 12] and np.array_equal(played.returns, again.returns)
    policy.reset()
    attacks = np.concatenate([policy.act(None, 0) for _ in range(3)], axis=1)[..., 7].sum(axis=1)
    assert played.returns.tolist() == (attacks // 3).tolist(), "the stand-in pays a log for three attacks"


def test_policies_play_waves_of_worlds(
    trained: Path, tmp_path: Path, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.install_minestudio()
    monkeypatch.setattr("fastdreamer.evaluation.environments.open_encoder", lambda *arguments: StandIn())
    run_dir, config = copy_of(trained, tmp_path / "run")
    config = settings(config, episodes=3, max_steps=9, workers=2)
    result = evaluated(run_dir, config, [1, 2])
    assert list(result["policies"]) == ["random", "phase2", "phase2_greedy"]
    for policy in result["policies"].values():
        assert policy["episodes"] == 3 and policy["length_mean"] == 9
    assert result["notes"] == ["Phase 3 is not trained in this run."] and "phase2_minus_random" in result["differences"]
    alone = evaluated(run_dir, settings(config, workers=0), [1])["policies"]["random"]
    assert alone["returns"] == result["policies"]["random"]["returns"], "a world does not depend on its wave"


def test_waves() -> None:
    treechop = tiny_config("minerl_treechop", workers=2)
    assert waves(treechop, range(5, 10)) == [range(5, 7), range(7, 9), range(9, 10)]
    assert waves(settings(treechop, workers=0), range(5, 7)) == [range(5, 6), range(6, 7)]
    assert waves(tiny_config("crafter", workers=2), range(5, 10)) == [range(5, 10)]


def tiny_config(env: str, **changes: Any) -> Config:
    config = Config()
    return settings(replace(config, data=replace(config.data, env=env)), **changes)


def test_nothing_to_play_in_is_a_note_or_an_error_if_it_was_asked_for(
    trained: Path, tmp_path: Path, machine: Machine
) -> None:
    run_dir, config = copy_of(trained, tmp_path / "run")
    (note,) = [note for note in evaluated(run_dir, config, [1, 2])["notes"] if "No policy" in note]
    assert "MineStudio is not installed: pip install --no-deps minestudio" in note and "\n" not in note
    with pytest.raises(UserError, match="minerl is not installed"):
        module.evaluate(settings(config, backend="minerl"), run_dir)
    assert not (run_dir / "world_model.json").exists(), "refused before anything is computed"


def test_play_that_stops_keeps_what_was_finished(
    trained: Path, tmp_path: Path, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.install_minestudio()
    run_dir, config = copy_of(trained, tmp_path / "run")
    config = settings(config, episodes=2, max_steps=6)
    whole = evaluated(run_dir, config, [1])

    class Breaks(StandIn):
        def reset(self, frames: torch.Tensor) -> torch.Tensor:
            raise UserError("the connection to Minecraft broke")

    monkeypatch.setattr("fastdreamer.evaluation.environments.open_encoder", lambda *arguments: Breaks())
    result = evaluated(run_dir, config, [1, 2])
    assert result["policies"] == whole["policies"] and list(result["policies"]) == ["random"]
    assert "Play stopped" in result["notes"][-1] and "connection to Minecraft broke" in result["notes"][-1]
    monkeypatch.setenv("STAND_IN_FAILS", "log@reset")
    result = evaluated(run_dir, config, [1])
    assert result["policies"] == {} and "failed while making a world" in result["notes"][-1]
    with pytest.raises(UserError, match="failed while making a world"):
        evaluated(run_dir, settings(config, backend="minestudio"), [1])


def test_components_left_out_are_named(trained: Path, tmp_path: Path, machine: Machine) -> None:
    machine.install_minestudio()
    run_dir, config = copy_of(trained, tmp_path / "run")
    result = evaluated(run_dir, settings(config, episodes=1, max_steps=30, leave_out=("attack",)), [1])
    assert result["policies"]["random"]["returns"] == [0.0], "no attack, no logs"
    assert "Kept at their no-op while playing: attack." in result["notes"]
