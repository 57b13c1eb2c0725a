"""`report`: everything a run left behind, as one self-contained page (no script, no outside reference)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from html import escape
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

from fastdreamer.errors import UserError
from fastdreamer.evaluation.beside_reality import calibration_section, one_sample_section
from fastdreamer.evaluation.bootstrap import Interval
from fastdreamer.evaluation.charts import rounded
from fastdreamer.evaluation.curves import PHASES, Metrics, curves, read_metrics
from fastdreamer.evaluation.health import health_section
from fastdreamer.evaluation.recordings import summarise_recordings
from fastdreamer.evaluation.sections import (
    configuration_section,
    evaluation_section,
    note,
    recordings_section,
    time_section,
    world_model_section,
)
from fastdreamer.evaluation.verdict import NAMES, duration, interval_of, policy_sentences, world_model_sentences
from fastdreamer.files import write_atomic


@dataclass(frozen=True)
class Run:
    """What a run directory holds, read once; what is missing is empty."""

    path: Path
    config_text: str
    metrics: Metrics
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
    """Read a run directory; a file that is missing is empty, one that is broken is named in `damaged`."""
    damaged: list[str] = []

    def load(name: str) -> dict[str, Any]:
        path = run_dir / name
        if not path.is_file():
            return {}
        try:
            value = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            value = None
        if not isinstance(value, dict):
            damaged.append(name)
            return {}
        return value

    config = run_dir / "config.yaml"
    return Run(
        path=run_dir,
        config_text=config.read_text(encoding="utf-8", errors="replace") if config.is_file() else "",
        metrics=read_metrics(run_dir),
        evaluation=load("evaluation.json"),
        world_model=load("world_model.json"),
        timings={name: float(value) for name, value in load("timings.json").items() if isinstance(value, int | float)},
        pictures=load("pictures/pictures.json"),
        recordings=dict(recordings or {}),
        diagnosis=load("diagnosis.json"),
        flags=load("flags.json"),
        audit=load("diagnosis/audit.json"),
        damaged=damaged,
    )


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
    path = run_dir / "report.html"
    write_atomic(path, render(run).encode("utf-8"))
    return {"path": str(path)}


def render(run: Run) -> str:
    """The page."""
    sections = [
        (
            "evaluation",
            "In the environment",
            evaluation_section(run.evaluation, run.recordings) + calibration_section(run.evaluation),
        ),
        (
            "world-model",
            "The world model",
            world_model_section(run.world_model, run.pictures, run.path / "pictures")
            + one_sample_section(run.world_model),
        ),
        ("health", "Is it well", health_section(run.diagnosis, run.flags, run.audit)),
        ("curves", "Training curves", curves_section(run.metrics)),
        ("recordings", "What it learned from", recordings_section(run.recordings)),
        ("time", "What ran, and how long", time_section(run.timings)),
        ("configuration", "Configuration", configuration_section(run.config_text)),
    ]
    links = "".join(f'<a href="#{anchor}">{escape(title)}</a>' for anchor, title, _ in sections)
    broken = "".join(
        note(f"{name} is damaged and was left out; run the command that writes it again.") for name in run.damaged
    )
    body = [header(run), broken, f"<nav>{links}</nav>"]
    body += [f'<section id="{anchor}"><h2>{escape(title)}</h2>{html}</section>' for anchor, title, html in sections]
    template = resources.files("fastdreamer.evaluation").joinpath("report_template.html").read_text(encoding="utf-8")
    name = run.path.resolve().name
    return Template(template).substitute(title=escape(f"FastDreamer report: {name}"), body="\n".join(body))


def header(run: Run) -> str:
    """Title, verdict in words, key figures."""
    sentences = policy_sentences(run.evaluation) + world_model_sentences(run.world_model)
    missing = [
        what
        for what, there in (
            ("a closed-loop evaluation", "policies" in run.evaluation and run.evaluation["policies"]),
            ("a world-model evaluation", "horizons" in run.world_model),
        )
        if not there
    ]
    if missing:
        sentences.append(f"This run has no {' and no '.join(what.removeprefix('a ') for what in missing)} yet.")
    verdict = "".join(f"<span>{escape(sentence)}</span>" for sentence in sentences)
    env = run.evaluation.get("env")
    phases = [str(phase) for phase in run.metrics if phase in PHASES and phase > 0]
    parts = [escape(str(env))] if env else []
    parts += [f"phase {', '.join(phases)} trained"] if phases else []
    parts += [f"{duration(sum(run.timings.values()))} in all"] if run.timings else []
    return (
        f"<h1>{escape(run.path.resolve().name)}</h1>"
        f'<p class="meta">FastDreamer report{" &middot; " if parts else ""}{" &middot; ".join(parts)}</p>'
        f'<p class="verdict">{verdict}</p>{tiles(run)}'
    )


def tiles(run: Run) -> str:
    """The key figures, four or five, each with what it is compared with."""
    made: list[tuple[str, str, str]] = []
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
            ratio = Interval(**ratios[key])
            bounds = f"[{rounded(ratio.low)}, {rounded(ratio.high)}]"
            made.append((title, f"&times; {rounded(ratio.mean)}", f"{bounds} {text}"))
    html = "".join(
        f'<div class="tile"><span class="name">{escape(name)}</span><b>{figure}</b><span>{escape(text)}</span></div>'
        for name, figure, text in made
    )
    return f'<div class="tiles">{html}</div>' if made else ""


def curves_section(metrics: Metrics) -> str:
    """All phases' curves."""
    if not metrics:
        return note("No metrics.jsonl: nothing was trained in this run directory yet.")
    intro = (
        '<p class="lead">Thin lines are what was logged, thick ones a moving average; the figure above a chart is '
        "where the thick line ends.</p>"
    )
    order = sorted(metrics, key=lambda phase: (phase == 0, phase))  # the pictures' decoder last: it decides nothing
    blocks = [
        f"<h3>{escape(PHASES.get(phase, f'Phase {phase}'))}</h3>{curves(metrics[phase], phase)}" for phase in order
    ]
    absent = [PHASES[phase] for phase in (1, 2, 3) if phase not in metrics]
    if absent:
        blocks.append(note(f"Not trained in this run: {'; '.join(absent)}."))
    return intro + "".join(blocks)
