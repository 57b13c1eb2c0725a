"""The report's tables of what is predicted or imagined beside what is real."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastdreamer.evaluation.bootstrap import Interval
from fastdreamer.health.checks import Check
from fastdreamer.health.limits import reward_on_play
from fastdreamer.plotting.charts import rounded, with_interval
from fastdreamer.plotting.html import Html, element, joined, lead, note, table
from fastdreamer.report.verdict import NAMES, say

HEAD = ("Play", "Predicted an episode", "Paid", "Ratio", "Predicted where nothing is paid", "AUC of paid steps",
        "Correlation", "Value of a state", "Earned from there")  # fmt: skip


def calibration_section(evaluation: Mapping[str, Any]) -> Html:
    """Predicted against paid reward, and values against returns, on the real play of every policy; for each task."""
    tasks = evaluation.get("tasks") or {"": evaluation}
    return joined(_calibration(name, entry.get("reward_calibration", {})) for name, entry in tasks.items())


def _calibration(task: str, entries: Mapping[str, Any]) -> Html:
    if not entries:
        return Html()
    ordered = [name for name in NAMES if name in entries] + [name for name in entries if name not in NAMES]
    rows = [_row(NAMES.get(name, name.capitalize()), entries[name]) for name in ordered]
    intro = (
        "The heads on REAL play, on the inputs that they were trained on. Phase 3 climbs what the reward head "
        "predicts, so it must be right where the policy goes, not only on recordings (last row: held-out ones)."
    )
    checks = {NAMES[name]: judged(entries[name]) for name in ("phase2", "phase3") if name in entries}
    raised = {title: check for title, check in checks.items() if check.is_raised}
    found = "; ".join(f"{title}: {check.value}" for title, check in raised.items())
    title = f"Predicted against paid reward{f': task {task}' if task else ''}"
    first = next(iter(raised.values()), None)
    remark = note(f"{found} (expected {first.expected}): {first.remedy}.") if first else ""
    outro = (
        "Earned are the discounted rewards to the episode's end, and the critic's own value of the state where an "
        "episode was cut off. Brackets are 95 % intervals over episodes."
    )
    return joined([element("h3", title), lead(intro), table(HEAD, rows), remark, element("p", outro)])


def judged(entry: Mapping[str, Any]) -> Check:
    """Whether the reward head is right on a policy's play."""
    return reward_on_play(entry["predicted"]["mean"], entry["paid"]["mean"], (entry["ratio"] or {}).get("low"))


def _row(title: str, entry: Mapping[str, Any]) -> tuple[str, ...]:
    unpaid, critic = entry["kinds"].get("unpaid_steps"), entry.get("critic")
    intervals = entry["predicted"], entry["paid"], entry["ratio"], unpaid and unpaid["predicted"]
    judged = [_interval(critic and critic[name]) for name in ("value", "with_rest")]
    return (title, *map(_interval, intervals), _plain(entry["auc"]), _plain(entry["correlation"]), *judged)


def _interval(value: Mapping[str, float | None] | None) -> str:
    return "-" if value is None or value["mean"] is None else with_interval(value["mean"], value["low"], value["high"])


def _plain(value: float | None) -> str:
    return "-" if value is None else rounded(value)


def one_sample_section(world_model: Mapping[str, Any]) -> Html:
    """One sample beside copying at every horizon, the first imagined step, and the imagined reward."""
    if "one_step" not in world_model:
        return Html()
    step, ratios = world_model["one_step"], [Interval.of(r) for r in world_model["one_sample_over_copy"]]
    won = sum(r.mean < 1 for r in ratios)
    intro = (
        f"A dream is one sample, not a mean of several. Its error is below that of copying at {won} of {len(ratios)} "
        f"horizons. The first imagined step: {say(Interval.of(step['over_copy']))} times the error of copying, and "
        f"{say(Interval.of(step['shuffled_over_real']))} times as much under shuffled actions."
    )
    heads = [f"+{h}" for h in world_model["horizons"]]
    figures = table(heads, [[say(ratio) for ratio in ratios]])
    return joined([element("h3", "One sample"), lead(intro), figures, _rewards(world_model)])


def _rewards(world_model: Mapping[str, Any]) -> Html:
    found = world_model.get("reward_correlation")
    if not found:
        return Html()
    pairs = (
        ("imagined_against_real", "predicted on imagined states, and on the real ones"),
        ("imagined_against_recorded", "predicted on imagined states, and recorded"),
        ("real_against_recorded", "predicted on real states, and recorded"),
    )
    rows = [(text, _interval(found[key])) for key, text in pairs]
    return table(("Reward, step by step", f"Correlation over {found['steps']} imagined steps"), rows)
