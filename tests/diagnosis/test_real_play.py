"""Heads that are wrong on the policy's own real play raise a flag, read from what `eval` wrote."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from fastdreamer.health import limits as flags
from fastdreamer.health.checks import Check
from fastdreamer.tools.diagnosis import real_play
from fastdreamer.tools.diagnosis.loaded_phase import LoadedPhase

PHASE = SimpleNamespace(terms=("policy", "reward", "continue", "value"))


def entry(predicted: float, paid: float, value: float = 3.0, step: int = 20) -> dict[str, Any]:
    ratio = {"mean": predicted / paid, "low": 0.9 * predicted / paid, "high": None} if paid > 0 else None
    critic = {"value": {"mean": value}, "with_rest": {"mean": 3.0}, "spread": 0.5}
    return {"predicted": {"mean": predicted}, "paid": {"mean": paid}, "ratio": ratio, "critic": critic, "step": step}


def diagnosed(run: Path, evaluation: dict[str, Any] | None, number: int = 2, phase: Any = PHASE) -> dict[str, Check]:
    run.mkdir(exist_ok=True)
    if evaluation is not None:
        (run / "evaluation.json").write_text(json.dumps(evaluation))
    loaded = SimpleNamespace(
        run=SimpleNamespace(path=run), phase=phase, number=number, checkpoint=SimpleNamespace(step=20)
    )
    return {check.name: check for check in real_play.checks(cast(LoadedPhase, loaded))}


def judged(**entries: dict[str, Any]) -> dict[str, Any]:
    return {"reward_calibration": entries}


def test_a_head_that_pays_five_times_too_much_is_red_and_says_what_helps(tmp_path: Path) -> None:
    found = diagnosed(tmp_path, judged(phase2=entry(22.6, 4.2), phase3=entry(4.2, 4.2)))
    check = found["predicted against paid reward"]
    assert check.verdict == "red" and check.group == "reward" and "22.60 predicted, 4.20 paid" in check.value
    for setting in ("noisy_share", "random_share", "reward_dropout", "reads=action", "reward_members", "patience"):
        assert setting in check.remedy
    later = diagnosed(tmp_path, None, number=3)
    assert {check.verdict for check in later.values()} == {"ok"} and len(later) == 2


@pytest.mark.parametrize(
    ("predicted", "paid", "low", "verdict"),
    [
        (1.49, 1.0, 1.2, "ok"), (1.5, 1.0, 1.01, "red"), (1.6, 1.0, 0.9, "amber"), (0.66, 1.0, 0.5, "amber"),
        (0.68, 1.0, 0.5, "ok"), (0.6, 0.0, None, "red"), (0.2, 0.0, None, "amber"), (0.05, 0.0, None, "ok"),
    ],
)  # fmt: skip
def test_limits_of_the_ratio(predicted: float, paid: float, low: float | None, verdict: str) -> None:
    check = flags.reward_on_play(predicted, paid, low)
    assert check.verdict == verdict and bool(check.remedy) == (verdict != "ok")
    assert ("misses" in check.remedy) == (predicted == 0.66)


def test_a_critic_of_another_player_is_flagged(tmp_path: Path) -> None:
    for value, verdict in ((3.4, "ok"), (3.6, "amber"), (9.0, "red"), (1.9, "red")):
        found = diagnosed(tmp_path, judged(phase2=entry(1, 1, value)))
        assert found["value on real play"].verdict == verdict and found["value on real play"].group == "value"


def test_what_eval_has_not_played_is_not_measured_and_the_command_is_said(tmp_path: Path) -> None:
    run = tmp_path / "a run"
    for evaluation in (None, {"policies": {}}, judged(phase2=entry(9, 1, step=10))):
        found = diagnosed(run, evaluation)
        assert {check.verdict for check in found.values()} == {"not measured"} and len(found) == 2
        assert all(f"fastdreamer eval --run-dir '{run}'" in check.value for check in found.values())
    assert "played at step 10" in found["value on real play"].value, "an older policy than the one that is diagnosed"


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ('{"reward_calibration": {"phase2": {"paid": {"mean": 1}}}}', "reward_calibration.phase2 has no predicted"),
        ("[" * 100_000, "it is nested too deeply"),
        ('{"tasks": {"wood": []}}', "tasks.wood is a list, not an object"),
    ],
)
def test_a_damaged_evaluation_costs_only_its_own_checks(tmp_path: Path, text: str, wrong: str) -> None:
    (tmp_path / "evaluation.json").write_text(text)
    found = diagnosed(tmp_path, None)
    assert len(found) == 2 and {check.verdict for check in found.values()} == {"not measured"}
    assert all(f"({wrong}): run fastdreamer eval --run-dir" in check.value for check in found.values())


def test_what_is_beyond_all_bounds_is_flagged(tmp_path: Path) -> None:
    far = entry(1, 1) | {"critic": {"value": {"mean": None}, "with_rest": {"mean": 3.0}, "spread": 0.5}}
    assert diagnosed(tmp_path, judged(phase2=far))["value on real play"].verdict == "red"


def test_every_task_has_its_own_checks(tmp_path: Path) -> None:
    tasks = {"wood": judged(phase2=entry(2, 2)), "drink": judged(phase2=entry(9, 2))}
    found = diagnosed(tmp_path, {"tasks": tasks})
    assert found["predicted against paid reward (wood)"].verdict == "ok"
    assert found["predicted against paid reward (drink)"].verdict == "red"


def test_without_rewards_there_is_nothing_to_compare(tmp_path: Path) -> None:
    assert diagnosed(tmp_path, None, phase=SimpleNamespace(terms=("policy",))) == {}
