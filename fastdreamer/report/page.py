"""`report`: everything a run left behind, as one self-contained page (no script, no outside reference)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastdreamer.errors import UserError
from fastdreamer.evaluation.bootstrap import Interval
from fastdreamer.plotting.charts import rounded
from fastdreamer.plotting.html import Html, element, heading, joined, lead, note, page
from fastdreamer.report.beside_reality import calibration_section, one_sample_section
from fastdreamer.report.curves import PHASES, curves
from fastdreamer.report.flags_section import health_section
from fastdreamer.report.recorded_play import summarise_recordings
from fastdreamer.report.sections import (
    configuration_section,
    evaluation_section,
    recordings_section,
    time_section,
    world_model_section,
)
from fastdreamer.report.verdict import NAMES, duration, interval_of, policy_sentences, world_model_sentences
from fastdreamer.run import run_files
from fastdreamer.run.lock import alone
from fastdreamer.run.metrics import Curves, read_curves
from fastdreamer.run.run_files import RunFile
from fastdreamer.system.files import write_atomic
from fastdreamer.system.json_files import regular_bytes


@dataclass(frozen=True)
class Run:
    """What a run directory holds, read once; what is missing is empty."""

    path: Path
    config_text: str
    metrics: Curves
    evaluation: dict[str, Any]
    world_model: dict[str, Any]
    timings: dict[str, float]
    pictures: dict[str, Any]
    recordings: dict[str, Any]
    diagnosis: dict[str, Any] = field(default_factory=dict)
    flags: dict[str, Any] = field(default_factory=dict)
    audit: dict[str, Any] = field(default_factory=dict)
    damaged: list[str] = field(default_factory=list)


def read_run(run_dir: Path, recordings: Mapping[str, Any] | None = None) -> Run:
    """Read a run directory; a file that is missing is empty, one that is broken is said in `damaged`.

    The page may be shown to others, so no link is followed.
    """
    damaged: list[str] = []
    remedy = "left out; run the command that writes it again"

    def load(file: RunFile) -> dict[str, Any]:
        try:
            return file.read(run_dir, remedy=remedy, follows_links=False)
        except UserError as error:
            damaged.append(str(error).removeprefix(f"{run_dir}/"))
            return {}

    config_text = ""
    if (run_dir / run_files.CONFIG).exists():
        try:
            config_text = regular_bytes(run_dir / run_files.CONFIG, follows_links=False).decode("utf-8", "replace")
        except ValueError as error:
            damaged.append(f"config.yaml is not shown: {error}")
    metrics: Curves = {}
    try:
        metrics = read_curves(run_dir)
    except UserError as error:
        damaged.append(f"{str(error).removeprefix(f'{run_dir}/')}; left out")
    except OSError as error:
        damaged.append(f"metrics.jsonl cannot be read ({error.strerror}): left out")
    names = ("evaluation", "world_model", "timings", "pictures", "diagnosis", "flags", "audit")
    files = {name: load(getattr(run_files, name.upper())) for name in names}
    return Run(run_dir, config_text, metrics, recordings=dict(recordings or {}), damaged=damaged, **files)


@alone
def write_report(run_dir: Path) -> dict[str, str]:
    """Write `run_dir`/report.html and return {"path"}.

    Raises:
        UserError: if the directory does not exist or holds nothing of a run.
    """
    if not run_dir.is_dir():
        raise UserError(f"{run_dir} is no run directory; name one with --run-dir")
    run = read_run(run_dir, summarise_recordings(run_dir))
    if not any((run.config_text, run.metrics, run.evaluation, run.world_model, run.timings, run.damaged)):
        raise UserError(
            f"{run_dir} holds no config.yaml, metrics or evaluation; train there first, or name another run"
        )
    path = run_dir / run_files.REPORT
    write_atomic(path, render(run).encode("utf-8"))
    return {"path": str(path)}


def render(run: Run) -> str:
    """The page as HTML."""
    played = joined([evaluation_section(run.evaluation, run.recordings), calibration_section(run.evaluation)])
    dreamt = world_model_section(run.world_model, run.pictures, run.path / run_files.PICTURE_FOLDER)
    sections = [
        ("evaluation", "In the environment", played),
        ("world-model", "The world model", joined([dreamt, one_sample_section(run.world_model)])),
        ("health", "Is it well", health_section(run.diagnosis, run.flags, run.audit)),
        ("curves", "Training curves", curves_section(run.metrics)),
        ("recordings", "What it learned from", recordings_section(run.recordings)),
        ("time", "What ran, and how long", time_section(run.timings)),
        ("configuration", "Configuration", configuration_section(run.config_text)),
    ]
    top = joined([header(run), *(note(f"{text}.") for text in run.damaged)])
    return page(f"FastDreamer report: {run.path.resolve().name}", top, sections)


def header(run: Run) -> Html:
    """Title, verdict in words, key figures."""
    sentences = policy_sentences(run.evaluation) + world_model_sentences(run.world_model)
    there = {"closed-loop": run.evaluation.get("policies"), "world-model": "horizons" in run.world_model}
    if missing := [f"{what} evaluation" for what, found in there.items() if not found]:
        sentences.append(f"This run has no {' and no '.join(missing)} yet.")
    env = run.evaluation.get("env")
    phases = [str(phase) for phase in run.metrics if phase in PHASES and phase > 0]
    parts = ["FastDreamer report", *([env] if env else [])]
    parts += [f"phase {', '.join(phases)} trained"] if phases else []
    parts += [f"{duration(sum(run.timings.values()))} in all"] if run.timings else []
    return joined([heading(run.path.resolve().name, parts, sentences), tiles(run)])


def tiles(run: Run) -> Html:
    """The key figures, four or five, each with what it is compared with."""
    made: list[tuple[str, object, str]] = []
    policies = run.evaluation.get("policies", {})
    for name, against in (("phase2", "random"), ("phase3", "phase2")):
        if name in policies:
            mine = interval_of(policies[name])
            beside = ""
            if against in policies:
                beside = f"; {NAMES[against].lower()} {rounded(interval_of(policies[against]).mean)}"
            task = f", task {run.evaluation['task']}" if run.evaluation.get("task") else ""
            title = f"Return after {NAMES[name].lower()}{task}"
            made.append((title, rounded(mine.mean), f"[{rounded(mine.low)}, {rounded(mine.high)}]{beside}"))
    ratios = run.world_model.get("ratios", {})
    over_copy = next((key for key in ratios if key.endswith("_over_copy")), "")
    for key, title, text in (
        (over_copy, "World model error", "the error of copying; below 1 is better"),
        ("shuffled_over_real", "Error, shuffled actions", "the error under real actions; above 1 is right"),
    ):
        if key in ratios:
            ratio = Interval.of(ratios[key])
            bounds = f"[{rounded(ratio.low)}, {rounded(ratio.high)}]"
            made.append((title, Html(f"&times; {rounded(ratio.mean)}"), f"{bounds} {text}"))
    shown = [
        element("div", element("span", name, class_="name"), element("b", value), element("span", text), class_="tile")
        for name, value, text in made
    ]
    return element("div", *shown, class_="tiles") if made else Html()


def curves_section(metrics: Curves) -> Html:
    """The curves of all phases."""
    if not metrics:
        return note("No metrics.jsonl: nothing was trained in this run directory yet.")
    intro = (
        "Thin lines are what was logged, thick ones a moving average; the figure above a chart is where the thick line "
        "ends."
    )
    order = sorted(metrics, key=lambda phase: (phase == 0, phase))  # the pictures' decoder last: it decides nothing
    blocks = [lead(intro)]
    for phase in order:
        blocks += [element("h3", PHASES.get(phase, f"Phase {phase}")), curves(metrics[phase], phase)]
    absent = [PHASES[phase] for phase in (1, 2, 3) if phase not in metrics]
    if absent:
        blocks.append(note(f"Not trained in this run: {'; '.join(absent)}."))
    return joined(blocks)
