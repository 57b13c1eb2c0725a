"""Training curves: metrics.jsonl to a grid of small charts a phase."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from fastdreamer.plotting.charts import Series, line_chart, number
from fastdreamer.plotting.html import Html, element, joined

PHASES = {
    0: "Pixel decoder (pictures only)",
    1: "Phase 1: world model",
    2: "Phase 2: behaviour cloning and reward",
    3: "Phase 3: improvement in imagination",
}
POINTS = 160  # the most of a curve in the report


@dataclass(frozen=True)
class Panel:
    """One small chart: which metrics, what they are called there, and how to read them."""

    title: str
    metrics: tuple[tuple[str, str], ...]  # (metric, name in the legend)
    reading: str


def _one(metric: str, title: str, reading: str) -> Panel:
    return Panel(title, ((metric, ""),), reading)


HELD_OUT = "held_out/"
BASELINE = "majority_accuracy"
GENERAL = {  # of every phase, drawn last
    "loss": _one("loss", "Sum of the loss terms", "each divided by its running size"),
    "grad_norm": _one("grad_norm", "Gradient norm", "before clipping"),
    "learning_rate": _one("learning_rate", "Learning rate", "warm-up, then decay"),
    "skipped_steps": _one("skipped_steps", "Skipped steps", "their loss or gradient was not finite"),
}
PANELS: dict[int, tuple[Panel, ...]] = {
    0: (_one("loss/pixels", "Pixel loss", "lower is better"), _one("psnr", "PSNR in dB", "higher is better")),
    1: (
        _one("loss/dynamics", "Dynamics loss", "flow and bootstrap together, as trained"),
        Panel("Its two parts", (("loss/flow", "flow"), ("loss/boot", "bootstrap")), "lower is better"),
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
        _one("reward_error", "Reward error", "mean absolute"),
        _one("loss/value", "Value loss", "lower is better"),
        _one("loss/continue", "Continuation loss", "does the episode go on?"),
        _one("value_mean", "Value", "mean over real states"),
        Panel(
            "Spread of rewards",
            (("reward_std", "predicted"), ("recorded_reward_std", "recorded")),
            "0 would be one answer for every state",
        ),
    ),
    3: (
        _one("imagined_return", "Imagined return", "what the model believes; the environment decides"),
        _one("imagined_reward", "Imagined reward", "a latent step"),
        _one("value_mean", "Value", "mean over imagined states"),
        _one("entropy", "Policy entropy", "a fall to 0 would be collapse"),
        _one("kl_prior", "KL to the cloned policy", "how far it has moved"),
        _one("advantage_positive", "Share of positive advantages", "near one half is healthy"),
        _one("advantage_std", "Spread of advantages", "only their signs train the policy"),
        Panel("D+ and D-", (("positive", "D+"), ("negative", "D-")), "imagined steps in each; below 10 teaches little"),
        _one("alive", "Alive at the horizon", "weight of the last imagined step"),
        _one("loss/policy", "Policy loss", "PMPO; its sign carries no verdict"),
        _one("loss/value", "Value loss", "lower is better"),
    ),
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


def curves(metrics: Mapping[str, Sequence[tuple[int, float]]], phase: int) -> Html:
    """The grid of charts of one phase: the known metrics in their order, then whatever else was logged.

    What was measured on held-out episodes too is drawn into the chart of its own metric.
    """
    panels = list(PANELS.get(phase, ()))
    known = {name for panel in panels for name, _ in panel.metrics}
    others = [name for name in metrics if name not in known and name.removeprefix(HELD_OUT) not in metrics]
    others += [name for name in metrics if name not in known and not name.startswith(HELD_OUT)]
    panels += [GENERAL.get(name) or _one(name, _readable(name), "") for name in dict.fromkeys(others)]
    figures = [figure for panel in panels if (figure := _figure(panel, metrics))]
    return element("div", *figures, class_="panels")


def _readable(name: str) -> str:
    return name.replace("_", " ").replace("/", ": ").capitalize()


def _figure(panel: Panel, metrics: Mapping[str, Sequence[tuple[int, float]]]) -> Html:
    lines: list[tuple[str, str, str]] = []  # metric, name in the legend, tone
    for metric, name in panel.metrics:
        is_watched = HELD_OUT + metric in metrics
        tone = "base" if metric == BASELINE else "better" if lines else "model"
        lines.append((metric, name or ("training" if is_watched else ""), tone))
        if is_watched:
            lines.append((HELD_OUT + metric, "held out", "other"))
    drawn = [s for metric, name, tone in lines if (s := _series(metrics.get(metric, ()), name, metric, tone))]
    if not drawn:
        return Html()
    chart = line_chart(drawn, "step", label=f"{panel.title} over training steps")
    reading = joined([" ", element("span", panel.reading)]) if panel.reading else ""
    legend = element("span", *map(_key, drawn), class_="legend")
    caption = element("figcaption", element("strong", panel.title), reading, legend)
    return element("figure", caption, chart, class_="panel")


def _series(points: Sequence[tuple[int, float]], name: str, metric: str, tone: str) -> Series | None:
    finite = [(step, value) for step, value in points if math.isfinite(value)]
    if not finite:
        return None
    steps, raw = np.asarray(finite, dtype=np.float64).T
    xs, ys = downsample(steps), downsample(raw)
    is_exact = metric in ("learning_rate", BASELINE)  # nothing random to average away
    smoothed = ys if is_exact else smooth(ys)
    return Series(name, xs.tolist(), smoothed.tolist(), tone, metric == BASELINE, () if is_exact else ys.tolist())


def _key(series: Series) -> Html:
    """A legend entry: colour and name where there are several, and where the line ends."""
    kind = "key dashed" if series.dashed else "key"
    swatch = element("i", class_=kind, style=f"border-color:var(--{series.tone})") if series.name else ""
    return element("span", swatch, series.name, " ", element("b", number(series.ys[-1])))
