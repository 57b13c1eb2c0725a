"""study.html: every seed's figures, the intervals over all of them and the verdicts, as one self-contained page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fastdreamer.config import Config
from fastdreamer.evaluation.bootstrap import Interval
from fastdreamer.plotting.charts import Row, interval_chart, rounded
from fastdreamer.plotting.html import Html, element, figure, heading, joined, lead, note, page, table
from fastdreamer.report.sections import configuration_section, time_section
from fastdreamer.report.verdict import NAMES, interval_of, interval_row, say
from fastdreamer.settings import config_text
from fastdreamer.system.files import write_atomic

ARM_NAMES = NAMES | {
    "shuffled_rewards": "Rewards shuffled",
    "shuffled_actions": "Actions shuffled",
    "real_game": "Real game",
}
TONES = {"random": "base", "phase2": "model", "phase3": "other", "real_game": "better"}


def write_page(result: Mapping[str, Any], config: Config, path: Path) -> None:
    """Writes the page from what study.json holds."""
    tasks = list(result["tasks"])
    sections = [("verdicts", "Verdicts", _verdicts(result))]
    for number, task in enumerate(tasks):
        sections.append((f"task-{number}", f"Task {task}", _task(result, task)))
    sections += [
        ("world-model", "The world models", _world_models(result["by_seed"])),
        ("time", "What ran, and how long", time_section(_stages(result["seconds"]))),
        ("configuration", "Configuration", configuration_section(config_text(config))),
    ]
    title = f"FastDreamer study: {path.parent.resolve().name}"
    write_atomic(path, page(title, _header(result, path), sections).encode("utf-8"))


def _header(result: Mapping[str, Any], path: Path) -> Html:
    said = [
        f"{result['seeds']} of {result['wanted']} seeds, each on {result['worlds']} worlds of its own that were never "
        f"recorded, for at most {result['max_steps']} steps. All seeds learn from the same recordings."
    ]
    for task, found in result["tasks"].items():
        gain, ratio = found["differences"]["phase3_minus_phase2"], found["phase3_over_phase2"]
        change = f"; the ratio is {say(Interval.of(ratio))}" if ratio else ""
        said.append(
            f"Training in imagination changes the return in task {task} by {say(Interval.of(gain), sign=True)} over "
            f"{gain['over']}, upwards in {gain['positive']} of {len(gain['by_seed'])} seeds{change}."
        )
    about = ["FastDreamer study", result["env"], f"configuration {result['configuration']}"]
    return heading(path.parent.resolve().name, about, said)


def _verdicts(result: Mapping[str, Any]) -> Html:
    rows = []
    for verdict in result["verdicts"]:
        said = (verdict["name"], verdict.get("task", "all"), verdict["value"], verdict["expected"])
        rows.append((*said, element("b", verdict["verdict"])))
    return table(("Verdict", "Task", "Found", "Expected", ""), rows)


def _task(result: Mapping[str, Any], task: str) -> Html:
    found, seeds = result["tasks"][task], result["by_seed"]
    over = found["arms"]["phase3"]["over"]
    missing = [] if over != "worlds" else [
        note("One seed alone: the intervals speak for its worlds, and say nothing of what another seed would give.")
    ]  # fmt: skip
    chart = interval_chart(
        [_row(name, row) for name, row in found["differences"].items()],
        "difference in return, world by world", reference=0.0, label=f"Differences over all seeds, task {task}",
    )  # fmt: skip
    caption = (
        f"Large dots are the differences over all seeds, lines their 95 % intervals over {over}, small dots the seeds. "
        "Imagination should lie right of 0. With rewards or actions shuffled imagination says nothing, so those lines "
        "should cross 0. The real game in place of the dream is what a perfect dream would give at the same number of "
        "updates."
    )
    own = [
        Row(f"seed {seed['seed']}", **seed["tasks"][task]["differences"]["phase3_minus_phase2"], tone="other")
        for seed in seeds
    ]
    apart = interval_chart(own, "imagination - cloning", reference=0.0, label=f"Gain of every seed, task {task}")
    parts = [*missing, figure(chart, caption), element("h3", "Every seed")]
    parts.append(figure(apart, "Gain of phase 3 in every seed, with 95 % intervals over its worlds."))
    return joined([*parts, _returns(found, seeds, task), _calibration(seeds, task)])


def _row(name: str, row: Mapping[str, Any]) -> Row:
    arm, _, other = name.partition("_minus_")
    label = ARM_NAMES[arm] if other == "phase2" else f"{ARM_NAMES[arm]} - {ARM_NAMES[other].lower()}"
    return interval_row(label, Interval.of(row), TONES.get(arm, "warn"), row["by_seed"])


def _returns(found: Mapping[str, Any], seeds: Sequence[Mapping[str, Any]], task: str) -> Html:
    arms = list(found["arms"])
    head = ("", *(ARM_NAMES[arm] for arm in arms))
    rows = []
    for seed in seeds:
        rows.append([f"seed {seed['seed']}", *(say(interval_of(seed["tasks"][task]["arms"][arm])) for arm in arms)])
    together = ["all seeds", *(say(Interval.of(found["arms"][arm])) for arm in arms)]
    parts = [element("h3", "Returns"), table(head, [*rows, [element("b", cell) for cell in together]])]
    recordings = found["recordings"]
    if not recordings:
        parts.append(note("The recordings hold no rewards, so there is no demonstrator to compare with."))
        return joined(parts)
    who = "The demonstrator" if recordings["player"] == "expert" else "The recordings"
    others = ", ".join(f"{player} {rounded(value)}" for player, value in recordings["players"].items())
    text = (
        f"{who} earned {say(interval_of(recordings))} over {recordings['episodes']} recorded episodes of "
        f"{recordings['length_mean']:,.0f} steps on average (mean by player: {others})."
    )
    return joined([*parts, element("p", text)])


def _world_models(seeds: Sequence[Mapping[str, Any]]) -> Html:
    found = [_model_figures(seed["world_model"]) for seed in seeds]
    names = list(dict.fromkeys(name for figures in found for name in figures))
    if not names:
        return note("No world model was evaluated: held-out episodes are shorter than a window.")
    rows = [
        [f"seed {seed['seed']}", *(_cell(figures.get(name)) for name in names)]
        for seed, figures in zip(seeds, found, strict=True)
    ]
    return table(("On held-out play", *names), rows)


def _model_figures(world_model: Mapping[str, Any]) -> dict[str, Mapping[str, float]]:
    """Ratios of errors, and how well imagined rewards go with those of real states."""
    figures = {name.replace("_", " "): value for name, value in sorted(world_model.get("ratios", {}).items())}
    correlation = world_model.get("reward_correlation", {}).get("imagined_against_real")
    return figures | ({"correlation of imagined with real reward": correlation} if correlation else {})


def _calibration(seeds: Sequence[Mapping[str, Any]], task: str) -> Html:
    """Predicted against paid reward an episode, on the real play of each policy."""
    found = [seed["tasks"][task]["reward_calibration"] for seed in seeds]
    arms = list(dict.fromkeys(arm for one in found for arm in one))
    if not arms:
        return Html()
    head = ("", *(f"{ARM_NAMES[arm]}: {what}" for arm in arms for what in ("predicted", "paid", "ratio")))
    rows = []
    for seed, one in zip(seeds, found, strict=True):
        figures = [one.get(arm, {}).get(what) for arm in arms for what in ("predicted", "paid", "ratio")]
        rows.append([f"seed {seed['seed']}", *map(_cell, figures)])
    intro = (
        "Reward an episode in the real game, as predicted from what was seen and as it was paid; the ratio should be "
        "about 1."
    )
    return joined([element("h3", "What the reward head says of real play"), lead(intro), table(head, rows)])


def _cell(figures: Mapping[str, float] | None) -> Html:
    """A table cell of an estimate with its interval; empty where there is none."""
    if not figures or figures.get("mean") is None:
        return element("td", "n/a", class_="none")
    return element("td", say(Interval.of(figures)))


def _stages(seconds: Mapping[str, float]) -> dict[str, float]:
    """The same part of every seed together."""
    stages: dict[str, float] = {}
    for name, value in seconds.items():
        stage = name.rpartition("/")[2]
        stages[stage] = stages.get(stage, 0.0) + value
    return stages
