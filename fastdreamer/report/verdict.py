"""The report's words: sentences computed from the numbers, which claim no more than the intervals allow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fastdreamer.evaluation.bootstrap import Interval
from fastdreamer.plotting.charts import Row, with_interval

NAMES: dict[str, str] = {
    "random": "Random play",
    "phase2": "Cloning",
    "phase2_greedy": "Cloning, greedy",
    "phase3": "Imagination",
    "phase3_greedy": "Imagination, greedy",
}


FEW = 20  # episodes below which a percentile bootstrap is known to be too narrow


def interval_of(policy: Mapping[str, Any]) -> Interval:
    """A policy's return with its interval."""
    return Interval(float(policy["return_mean"]), float(policy["return_low"]), float(policy["return_high"]))


def interval_row(label: str, interval: Interval, tone: str = "model", values: Sequence[float] = ()) -> Row:
    """A row of a chart."""
    return Row(label, interval.mean, interval.low, interval.high, tone, values)


def say(interval: Interval, sign: bool = False) -> str:
    """`4.10 [3.80, 4.50]`, with a plus sign on the estimate where it is a difference."""
    return with_interval(interval.mean, interval.low, interval.high, sign)


def compare(better: Interval, worse: Interval, difference: Interval | None) -> str:
    """What two intervals, and the difference world by world, allow to say about the first policy."""
    if better.low > worse.high:
        return "clearly better, the intervals do not overlap"
    if better.high < worse.low:
        return "clearly worse, the intervals do not overlap"
    text = "the intervals overlap"
    if difference is None:
        return f"{text}, so this run shows no difference"
    if difference.low > 0 or difference.high < 0:
        direction = "ahead" if difference.low > 0 else "behind"
        return f"{text}, but compared world by world it is {direction} by {say(difference, sign=True)}"
    return f"{text}, and world by world the difference is {say(difference, sign=True)}: no difference shown"


def policy_sentences(evaluation: Mapping[str, Any]) -> list[str]:
    """Behaviour cloning against random play, imagination against behaviour cloning; for each task."""
    tasks = evaluation.get("tasks", {})
    return [
        f"{f'Task {name}: ' if name else ''}{sentence}"
        for name, entry in (tasks or {"": evaluation}).items()
        for sentence in _sentences(entry)
    ]


def _sentences(evaluation: Mapping[str, Any]) -> list[str]:
    policies, differences = evaluation.get("policies", {}), evaluation.get("differences", {})
    sentences = []
    for first, second in (("phase2", "random"), ("phase3", "phase2")):
        if first not in policies or second not in policies:
            continue
        one, other = interval_of(policies[first]), interval_of(policies[second])
        known = differences.get(f"{first}_minus_{second}")
        verdict = compare(one, other, Interval.of(known) if known else None)
        loaded = "Behaviour cloning" if first == "phase2" else "Training in imagination"
        against = "random play" if second == "random" else "the cloned policy it started from"
        worlds = policies[first].get("episodes", "?")
        where = f" over {worlds} worlds" if second == "random" else ""
        sentences.append(f"{loaded} scores {say(one)} against {say(other)} for {against}{where}: {verdict}.")
    played = min((int(policy["episodes"]) for policy in policies.values()), default=FEW)
    if sentences and played < FEW:
        sentences.append(f"Only {played} worlds were played: bootstrap intervals of so few are too narrow to rely on.")
    return sentences


def world_model_sentences(world_model: Mapping[str, Any]) -> list[str]:
    """The world model against copying, and the two controls."""
    if "horizons" not in world_model:
        return []
    ratios = {name: Interval.of(value) for name, value in world_model.get("ratios", {}).items()}
    samples = world_model.get("samples", 8)
    real, copy = world_model[f"mean_of_{samples}"], world_model["copy_last"]
    won, horizons = sum(a < b for a, b in zip(real, copy, strict=True)), len(real)
    sentences = []
    over_copy = ratios.get(f"mean_of_{samples}_over_copy")
    if over_copy is not None:
        if over_copy.high < 1:
            verdict = "predicts held-out play better than copying the last latent"
        elif over_copy.low > 1:
            verdict = "predicts held-out play worse than copying the last latent"
        else:
            verdict = "is not told apart from copying the last latent"
        where = {horizons: "every horizon", 0: "no horizon"}.get(won, f"{won} of {horizons} horizons")
        sentences.append(
            f"The world model {verdict}: its error is {say(over_copy)} times that of copying on average, and lower at "
            f"{where}."
        )
    controls = (("shuffled_over_real", "Shuffled actions"), ("noop_over_real", "Doing nothing instead"))
    for key, name in controls:
        if key not in ratios:
            continue
        ratio = ratios[key]
        if round(ratio.low, 2) > 1:  # as printed
            verdict = "so it uses the actions"
        elif round(ratio.high, 2) < 1:
            verdict = "which should not be: wrong actions help it"
        else:
            verdict = "so this control does not show that it uses the actions"
        verb = "multiply" if name.endswith("actions") else "multiplies"
        sentences.append(f"{name} {verb} its error by {say(ratio)}, {verdict}.")
    return sentences


def duration(seconds: float) -> str:
    """`8 min 12 s`, for a reader."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
