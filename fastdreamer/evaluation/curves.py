"""Training curves: metrics.jsonl to a grid of small charts a phase."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from fastdreamer.evaluation.charts import Series, line_chart, number

PHASES = {
    0: "Pixel decoder (pictures only)",
    1: "Phase 1: world model",
    2: "Phase 2: behaviour cloning and reward",
    3: "Phase 3: improvement in imagination",
}
POINTS = 160  # of a curve in the report
HIDDEN = ("phase", "step", "time", "seconds")

Metrics = dict[int, dict[str, list[tuple[int, float]]]]


@dataclass(frozen=True)
class Panel:
    """One small chart: which metrics, what they are called there, and how to read them."""

    title: str
    metrics: tuple[tuple[str, str], ...]  # (metric, name in the legend)
    reading: str


def _one(metric: str, title: str, reading: str) -> Panel:
    return Panel(title, ((metric, ""),), reading)


GRADIENT = _one("grad_norm", "Gradient norm", "before clipping")
PANELS: dict[int, tuple[Panel, ...]] = {
    0: (
        _one("loss/pixels", "Pixel loss", "lower is better"),
        _one("psnr", "PSNR in dB", "higher is better"),
    ),
    1: (
        _one("loss/dynamics", "Dynamics loss", "flow and bootstrap together, as trained"),
        Panel("Its two parts", (("loss/flow", "flow"), ("loss/boot", "bootstrap")), "lower is better"),
        GRADIENT,
        _one("learning_rate", "Learning rate", "warm-up, then decay"),
    ),
    2: (
        _one("loss/policy", "Policy loss", "cross-entropy of the demonstrated actions"),
        Panel(
            "Accuracy on the demonstrations",
            (("bc_accuracy", "cloned"), ("majority_accuracy", "commonest action")),
            "above the dashed line, it looks at the frame",
        ),
        _one("entropy", "Policy entropy", "0 is a policy that never hesitates"),
        _one("loss/reward", "Reward loss", "lower is better"),
        _one("loss/value", "Value loss", "lower is better"),
        _one("loss/continue", "Continuation loss", "does the episode go on?"),
        GRADIENT,
    ),
    3: (
        _one("imagined_return", "Imagined return", "what the model believes; the environment decides"),
        _one("imagined_reward", "Imagined reward", "a latent step"),
        _one("value_mean", "Value", "mean over imagined states"),
        _one("entropy", "Policy entropy", "a fall to 0 would be collapse"),
        _one("kl_prior", "KL to the cloned policy", "how far it has moved"),
        _one("advantage_positive", "Share of positive advantages", "near one half is healthy"),
        _one("loss/policy", "Policy loss", "PMPO; its sign carries no verdict"),
        _one("loss/value", "Value loss", "lower is better"),
        GRADIENT,
    ),
}


def read_metrics(path: Path) -> Metrics:
    """Metrics by phase and name as (step, value), sorted by step.

    A step that was logged twice (a run resumed from an older checkpoint) counts once, with its last value. A line
    that is no JSON object (a run was killed while writing it) is skipped.
    """
    found: dict[int, dict[str, dict[int, float]]] = {}
    for line in _lines(path):
        phase, step = line.get("phase"), line.get("step")
        if not isinstance(phase, int) or not isinstance(step, int):
            continue
        for name, value in line.items():
            if name not in HIDDEN and isinstance(value, int | float) and not isinstance(value, bool):
                found.setdefault(phase, {}).setdefault(name, {})[step] = float(value)
    return {p: {n: sorted(points.items()) for n, points in metrics.items()} for p, metrics in sorted(found.items())}


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    if not path.is_file():
        return
    with path.open(encoding="utf-8", errors="replace") as file:
        for text in file:
            try:
                line = json.loads(text)
            except json.JSONDecodeError:
                continue
            if isinstance(line, dict):
                yield line


def last_values(metrics: Metrics) -> dict[str, dict[str, float]]:
    """The last value of everything, by phase ("phase1": {...}), for summary.json; values that are not finite go."""
    return {
        f"phase{phase}": {name: points[-1][1] for name, points in values.items() if math.isfinite(points[-1][1])}
        for phase, values in metrics.items()
    }


def downsample(values: Float[ndarray, " t"], points: int = POINTS) -> Float[ndarray, " p"]:
    """Means of equal bins, at most `points` of them."""
    if len(values) <= points:
        return values
    return np.asarray([part.mean() for part in np.array_split(values, points)])


def smooth(values: Float[ndarray, " t"], share: float = 0.05) -> Float[ndarray, " t"]:
    """A centred moving average over `share` of the curve; at both ends over the half that exists."""
    half = int(len(values) * share / 2)
    total = np.concatenate([[0.0], np.cumsum(values)])
    index = np.arange(len(values))
    first, last = np.maximum(index - half, 0), np.minimum(index + half, len(values) - 1)
    return np.asarray((total[last + 1] - total[first]) / (last + 1 - first))


def curves(metrics: Mapping[str, Sequence[tuple[int, float]]], phase: int) -> str:
    """The grid of charts of one phase: the known metrics in their order, then whatever else was logged."""
    panels = list(PANELS.get(phase, ()))
    known = {name for panel in panels for name, _ in panel.metrics}
    panels += [_one(name, name, "") for name in metrics if name not in known]
    figures = [figure for panel in panels if (figure := _figure(panel, metrics))]
    return f'<div class="panels">{"".join(figures)}</div>'


def _figure(panel: Panel, metrics: Mapping[str, Sequence[tuple[int, float]]]) -> str:
    series, legend = [], []
    for (metric, name), tone in zip(panel.metrics, ("model", "other", "base"), strict=False):
        points = metrics.get(metric)
        if not points:
            continue
        steps, raw = np.asarray(points, dtype=np.float64).T
        is_baseline = metric == "majority_accuracy"
        tone, finite = ("base" if is_baseline else tone), np.isfinite(raw)
        steps, raw = steps[finite], raw[finite]
        if not len(raw):
            continue
        xs, ys = downsample(steps), downsample(raw)
        is_schedule = metric == "learning_rate"  # nothing random to average away
        smoothed = ys if is_schedule else smooth(ys)
        faint = () if is_schedule or is_baseline else ys.tolist()
        series.append(Series(name, xs.tolist(), smoothed.tolist(), tone, is_baseline, faint))
        kind = "key dashed" if is_baseline else "key"
        called = f"{escape(name)} " if name else ""
        swatch = f'<i class="{kind}" style="border-color:var(--{tone})"></i>' if name else ""
        legend.append(f"<span>{swatch}{called}<b>{number(float(smoothed[-1]))}</b></span>")
    if not series:
        return ""
    chart = line_chart(series, "step", label=f"{panel.title} over training steps")
    reading = f" <span>{escape(panel.reading)}</span>" if panel.reading else ""
    return (
        f'<figure class="panel"><figcaption><strong>{escape(panel.title)}</strong>{reading}'
        f'<span class="legend">{"".join(legend)}</span></figcaption>{chart}</figure>'
    )
