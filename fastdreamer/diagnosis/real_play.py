"""Is what the heads say true where the policy goes? Read from what `eval` found, which played the real environment."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from fastdreamer.advice import command as command_of
from fastdreamer.diagnosis import flags
from fastdreamer.diagnosis.check import Check
from fastdreamer.diagnosis.subject import Subject

NAMES = (("reward", "predicted against paid reward"), ("value", "value on real play"))


def checks(subject: Subject) -> Iterator[Check]:
    """Of the phase's sampled policy, for every task that was played; nothing where no reward head was trained."""
    if "value" not in getattr(subject.phase, "terms", ("value",)):
        return
    evaluations, policy = played(subject), f"phase{subject.number}"
    for task, evaluation in evaluations.items():
        title = f" ({task})" if len(evaluations) > 1 else ""
        entry = evaluation.get("reward_calibration", {}).get(policy)
        found = _unknown(subject, entry)
        for check in found or judged(entry):
            yield replace(check, name=check.name + title)


def judged(entry: Mapping[str, Any]) -> list[Check]:
    """What a policy's entry of `reward_calibration` says."""
    lowest = (entry["ratio"] or {}).get("low")
    found = [flags.reward_on_play(entry["predicted"]["mean"], entry["paid"]["mean"], lowest)]
    critic = entry.get("critic")
    if critic is not None:
        found.append(flags.value_on_play(critic["value"]["mean"], critic["with_rest"]["mean"], critic["spread"]))
    return found


def played(subject: Subject) -> dict[str, dict[str, Any]]:
    """What `eval` wrote, by task; the one that has no name where there is one alone, or no evaluation."""
    try:
        evaluation = json.loads((subject.run.path / "evaluation.json").read_text(encoding="utf-8"))
        return dict(evaluation.get("tasks") or {"": evaluation})
    except (OSError, ValueError, AttributeError):
        return {"": {}}


def _unknown(subject: Subject, entry: Mapping[str, Any] | None) -> list[Check]:
    """The checks where there is nothing to read, or it is of another checkpoint."""
    if entry is not None and entry["step"] == subject.checkpoint.step:
        return []
    command = command_of("eval", run_dir=subject.run.path)
    what = "not played yet" if entry is None else f"played at step {entry['step']}"
    return [Check(*name, f"{what}: run {command}", "measured on real play", "not measured") for name in NAMES]
