"""Is what the heads say true where the policy goes? Read from what `eval` found, which played the real environment."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from fastdreamer.errors import UserError
from fastdreamer.health import limits as flags
from fastdreamer.health.checks import Check
from fastdreamer.run.run_files import EVALUATION
from fastdreamer.system.advice import command as command_of
from fastdreamer.system.json_files import COUNT, NUMBER, Every, Maybe
from fastdreamer.tools.diagnosis.loaded_phase import LoadedPhase

MEAN, BOUND = {"mean": NUMBER}, {"mean": Maybe(NUMBER)}
JUDGED = {
    "predicted": MEAN, "paid": MEAN, "ratio": Maybe({"low?": Maybe(NUMBER)}), "step": COUNT,
    "critic?": Maybe({"value": BOUND, "with_rest": BOUND, "spread": NUMBER}),
}  # fmt: skip
PLAYED = {"reward_calibration?": Every(JUDGED), "policies?": Every({"return_mean": NUMBER, "length_mean": NUMBER})}
NEEDED = PLAYED | {"tasks?": Every(PLAYED)}
"""What is read of evaluation.json (see `json_files`)."""

NAMES = (("reward", "predicted against paid reward"), ("value", "value on real play"))


def checks(loaded: LoadedPhase) -> Iterator[Check]:
    """The checks of the phase's sampled policy, for every task that was played; none without a trained reward head."""
    if "value" not in getattr(loaded.phase, "terms", ("value",)):
        return
    try:
        evaluations, policy = played(loaded), f"phase{loaded.number}"
    except UserError as error:
        yield from (Check(*name, str(error), "measured on real play", "not measured") for name in NAMES)
        return
    for task, evaluation in evaluations.items():
        title = f" ({task})" if len(evaluations) > 1 else ""
        entry = evaluation.get("reward_calibration", {}).get(policy)
        found = _unknown(loaded, entry)
        for check in found or judged(entry):
            yield replace(check, name=check.name + title)


def judged(entry: Mapping[str, Any]) -> list[Check]:
    """What a policy's entry of `reward_calibration` says."""
    lowest = (entry["ratio"] or {}).get("low")
    found = [flags.reward_on_play(entry["predicted"]["mean"], entry["paid"]["mean"], lowest)]
    critic = entry.get("critic")
    if critic is not None:
        value, earned = (_huge_where_null(critic[name]["mean"]) for name in ("value", "with_rest"))
        found.append(flags.value_on_play(value, earned, critic["spread"]))
    return found


def played(loaded: LoadedPhase) -> dict[str, dict[str, Any]]:
    """What `eval` wrote, by task; the one that has no name where there is one alone, or no evaluation.

    Raises:
        UserError: if it is damaged.
    """
    evaluation = EVALUATION.read(loaded.run.path, shape=NEEDED, remedy=f"run {_command(loaded)}")
    return dict(evaluation.get("tasks") or {"": evaluation})


def _huge_where_null(value: float | None) -> float:
    """`eval` writes null for what is beyond all bounds."""
    return math.inf if value is None else value


def _command(loaded: LoadedPhase) -> str:
    return command_of("eval", run_dir=loaded.run.path)


def _unknown(loaded: LoadedPhase, entry: Mapping[str, Any] | None) -> list[Check]:
    """The checks where there is nothing to read, or it is of another checkpoint."""
    if entry is not None and entry["step"] == loaded.checkpoint.step:
        return []
    what = "not played yet" if entry is None else f"played at step {entry['step']}"
    return [Check(*name, f"{what}: run {_command(loaded)}", "measured on real play", "not measured") for name in NAMES]
