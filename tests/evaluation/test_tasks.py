"""`eval`, `diagnose` and `report` of a run with several tasks: each is played, paid and shown for itself."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from evaluation.test_evaluate import StandInPool, tiny_run, use_stand_in
from fastdreamer.commands.eval_command import show_evaluation
from fastdreamer.evaluation import evaluate as module
from fastdreamer.evaluation.closed_loop import AgentPolicy
from fastdreamer.evaluation.evaluate import evaluate
from fastdreamer.latents.episode import write_episode
from fastdreamer.latents.manifest import write_manifest
from fastdreamer.latents.store import LatentStore, read_manifest
from fastdreamer.report.page import write_report
from fastdreamer.run.directory import RunDirectory
from fastdreamer.run.metrics import write_summary
from fastdreamer.tools.diagnosis.diagnose import diagnose
from fastdreamer.training.train import train

TASKS = ("wood", "first:wood")


class CountingPool(StandInPool):
    """It counts wood where it pays."""

    resets = 0

    @property
    def counters(self) -> list[dict[str, int]]:
        return [{"wood": int(paid)} for paid in self.paid]

    def reset(self) -> np.ndarray:
        CountingPool.resets += 1
        return super().reset()

    def step(self, actions: np.ndarray, active: np.ndarray) -> tuple[Any, ...]:
        *stepped, infos = super().step(actions, active)
        return *stepped, [info | {"counters": counted} for info, counted in zip(infos, self.counters, strict=True)]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("tasks")
    config = tiny_run(run, f"tasks.names={list(TASKS)}")
    manifest = read_manifest(run / "store")
    for number, episode in enumerate(LatentStore.open(run / "store").episodes):
        counted = replace(episode, counters={"wood": torch.arange(episode.length) // (5 + number)})
        manifest["episodes"][episode.name] = write_episode(run / "store", counted, "test")
    write_manifest(run / "store", manifest)
    for phase in (1, 2, 3):
        train(config, run, phase)
    return run


def test_every_task_is_played_paid_and_shown(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use_stand_in(monkeypatch)
    monkeypatch.setattr("fastdreamer.envs.pool.EnvPool", CountingPool)
    config, acted = RunDirectory(trained).config(), []

    class Noted(AgentPolicy):
        def __init__(self, agent: Any, greedy: bool, seed: int, device: torch.device) -> None:
            acted.append((agent.task, greedy, seed))
            super().__init__(agent, greedy, seed, device)

    monkeypatch.setattr(module, "AgentPolicy", Noted)
    result = evaluate(config, trained)
    seed = config.evaluation.seed
    assert acted == [(task, greedy, seed) for task in (0, 1) for _ in (2, 3) for greedy in (False, True)]
    assert CountingPool.resets == 1 + 2 * 4, "random play once, every other policy for each task"
    assert list(result["tasks"]) == list(TASKS) and result["task"] == "wood"
    assert result["policies"] == result["tasks"]["wood"]["policies"]
    for name, entry in result["tasks"].items():
        assert list(entry["policies"]) == ["random", "phase2", "phase2_greedy", "phase3", "phase3_greedy"]
        assert "phase3_minus_phase2" in entry["differences"]
        assert {"phase2", "phase3", "recordings"} <= entry["reward_calibration"].keys(), name
        assert entry["reward_calibration"]["phase2"]["task"] == TASKS.index(name)
    wood, first = (result["tasks"][name]["policies"]["random"]["returns"] for name in TASKS)
    assert max(wood) > 1 and first == [float(paid > 0) for paid in wood]
    assert result["notes"] == []
    assert json.loads((trained / "evaluation.json").read_text())["tasks"] == result["tasks"]
    show_evaluation(write_summary(trained))
    printed = capsys.readouterr().out
    assert "task wood" in printed and "task first:wood" in printed
    found = diagnose(config, trained, (2, 3))["phases"]
    names = {check["name"] for phase in found.values() for check in phase["checks"]}
    for what in ("spread of predicted rewards", "imagined against real reward", "imagined rewards", "recorded rewards"):
        assert {f"{what}, task {task}" for task in TASKS} <= names and what not in names
    page = Path(write_report(trained)["path"]).read_text()
    for task in TASKS:
        assert f"<h3>Task {task}</h3>" in page and f"Task {task}: Behaviour cloning scores" in page


def test_a_task_that_the_environment_never_counts_is_said(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_stand_in(monkeypatch)
    monkeypatch.setattr("fastdreamer.envs.pool.EnvPool", CountingPool)
    monkeypatch.setattr(CountingPool, "counters", property(lambda pool: [{} for _ in pool.seeds]))
    result = evaluate(RunDirectory(trained).config(), trained)
    assert [note.split(":")[0] for note in result["notes"]] == ["Task wood", "Task first"]
