"""The report's sections, each from its part of the run's files; what is missing is said."""

from __future__ import annotations

import base64
import platform
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from fastdreamer.advice import command
from fastdreamer.envs.workers import count_cores
from fastdreamer.evaluation.bootstrap import Interval
from fastdreamer.evaluation.charts import Row, Series, interval_chart, line_chart, number, rounded
from fastdreamer.evaluation.verdict import NAMES, duration, interval_of, say

TONES = {"random": "base", "phase2": "model", "phase2_greedy": "model", "phase3": "other", "phase3_greedy": "other"}
DIFFERENCES = {
    "phase2_minus_random": "cloning - random",
    "phase3_minus_phase2": "imagination - cloning",
    "phase3_minus_random": "imagination - random",
}


def note(text: str) -> str:
    """A remark about what is missing or limited."""
    return f'<p class="note">{escape(text)}</p>'


def bar_cell(share: float, text: str) -> str:
    """A table cell with a bar behind its text; `share` is 0..1 of the cell."""
    width = max(0.0, min(1.0, share)) * 100
    return f'<td class="bar"><div><i style="width:{width:.1f}%"></i><em>{escape(text)}</em></div></td>'


def table(head: Sequence[str], rows: Sequence[str], even: bool = False) -> str:
    """A table whose rows are ready <td> cells; `even` makes all columns equally wide."""
    titles = "".join(f"<th>{escape(title)}</th>" for title in head)
    return (
        f'<div class="scroll"><table{" class=even" if even else ""}><thead><tr>{titles}</tr></thead><tbody>'
        + "".join(f"<tr>{row}</tr>" for row in rows)
        + "</tbody></table></div>"
    )


def evaluation_section(evaluation: Mapping[str, Any], recordings: Mapping[str, Any]) -> str:
    """Returns with intervals as a chart and a table, differences world by world, achievements; for each task."""
    notes = "".join(note(text) for text in evaluation.get("notes", []))
    entries = {str(name): entry for name, entry in evaluation.get("tasks", {}).items() if entry.get("policies")}
    if not entries and not evaluation.get("policies"):
        return notes or note(f"No closed-loop evaluation; this plays it: {command('eval')}")
    if not entries:
        return notes + _played(evaluation, recordings)
    demonstrated = recordings.get("tasks", {})
    shared = {"max_steps": evaluation.get("max_steps")}
    return notes + "".join(
        f"<h3>Task {escape(name)}</h3>"
        + _played({**shared, **entry}, {**recordings, "return_capped": None, **demonstrated.get(name, {})})
        for name, entry in entries.items()
    )


def _played(evaluation: Mapping[str, Any], recordings: Mapping[str, Any]) -> str:
    policies = evaluation["policies"]
    ordered: list[str] = [n for n in NAMES if n in policies] + [str(n) for n in policies if n not in NAMES]
    rows = []
    for name in ordered:
        mine = interval_of(policies[name])
        rows.append(
            Row(
                NAMES.get(name, name), mine.mean, mine.low, mine.high, TONES.get(name, "better"),
                policies[name].get("returns", ()),
            )
        )  # fmt: skip
    worlds = max(int(policies[name]["episodes"]) for name in ordered)
    cap = evaluation.get("max_steps")
    lead = f"Every policy plays the same {worlds} worlds, none of which was recorded"
    lead += f", for at most {cap} steps each." if cap else "."
    chart = interval_chart(rows, "return of an episode", label="Returns of every policy with 95 % intervals")
    caption = (
        "Large dots are mean returns, lines their 95 % bootstrap intervals over episodes, small dots single episodes. "
        "Policies whose lines do not overlap differ; where they overlap, the paired differences below decide."
    )
    parts = [f'<p class="lead">{escape(lead)}</p>', figure(chart, caption)]
    cells = []
    for name in ordered:
        policy, mine = policies[name], interval_of(policies[name])
        cells.append(
            f"<td>{escape(NAMES.get(name, name))}</td><td>{rounded(mine.mean)}</td>"
            f"<td>{rounded(mine.low)} to {rounded(mine.high)}</td><td>{policy['episodes']}</td>"
            f"<td>{float(policy['length_mean']):,.0f}</td>"
        )
    demonstrated = recordings.get("return_capped")
    if demonstrated:
        cells.append(
            f"<td>The recordings themselves</td><td>{rounded(demonstrated['mean'])}</td>"
            f"<td>{rounded(demonstrated['low'])} to {rounded(demonstrated['high'])}</td>"
            f"<td>{recordings['episodes']}</td><td>{recordings['length_capped']:,.0f}</td>"
        )
    parts.append(table(("Policy", "Mean return", "95 % interval", "Episodes", "Mean length"), cells))
    differences = evaluation.get("differences", {})
    if differences:
        text = "; ".join(f"{DIFFERENCES.get(k, k)} {say(Interval(**v), sign=True)}" for k, v in differences.items())
        parts.append(f"<p>Difference in return on the same worlds, with 95 % intervals: {escape(text)}.</p>")
    return "".join(parts) + achievements(policies, ordered, recordings.get("achievements", {}))


def achievements(policies: Mapping[str, Any], ordered: Sequence[str], demonstrated: Mapping[str, float]) -> str:
    """Share of episodes that unlocked each achievement, by policy, commonest first."""
    columns = {NAMES.get(name, name): policies[name].get("achievements", {}) for name in ordered}
    if demonstrated:
        columns["Recordings"] = demonstrated
    names = {name for rates in columns.values() for name in rates}
    if not names:
        return ""
    best = sorted(names, key=lambda name: (-max(rates.get(name, 0.0) for rates in columns.values()), name))
    rows = []
    for name in best:
        cells = "".join(
            bar_cell(rates[name], f"{rates[name]:.0%}") if rates.get(name) else '<td class="none">0%</td>'
            for rates in columns.values()
        )
        rows.append(f"<td>{escape(name.replace('_', ' '))}</td>{cells}")
    return (
        "<h3>Achievements</h3>"
        '<p class="lead">Share of episodes in which an achievement was unlocked at least once; those that nobody '
        f"unlocked are left out.</p>{table(('', *columns), rows, even=True)}"
    )


def figure(content: str, caption: str) -> str:
    """A framed chart and how to read it."""
    return f'<figure><div class="card">{content}</div><figcaption>{escape(caption)}</figcaption></figure>'


def world_model_section(world_model: Mapping[str, Any], pictures: Mapping[str, Any], folder: Path) -> str:
    """Error by horizon, controls, filmstrips."""
    parts = []
    if "horizons" in world_model:
        samples, context = world_model.get("samples", 8), world_model["context"]
        parts.append(
            f'<p class="lead">{world_model["crops"]} windows of held-out episodes: {context} real latent steps, then '
            f"the model imagines {len(world_model['horizons'])} more under the recorded actions.</p>"
        )
        lines = (
            (f"mean_of_{samples}", f"mean of {samples} samples", "model", False),
            ("one_sample", "one sample", "better", False),
            ("copy_last", "copying the last latent", "base", True),
            ("shuffled_actions", "shuffled actions", "other", False),
            ("noop_actions", "no-op actions", "warn", False),
        )
        horizons = world_model["horizons"]
        series = [
            Series(name, horizons, world_model[key], tone, dashed)
            for key, name, tone, dashed in lines
            if key in world_model
        ]
        chart = line_chart(series, "horizon in latent steps", 900, 320, zero=True, direct_labels=True, marks=horizons,
                           label="Error of imagined latents by horizon")  # fmt: skip
        caption = (
            "Mean squared error of normalised latents; lower is better, 1 is about the cost of always predicting the "
            f"mean latent. The blue line (mean of {samples} samples) should lie below the dashed one. One sample costs "
            "more than the mean of several because it commits to one of the possible futures. The two controls use the "
            "same noise and the same mean of samples as the blue line; the further they lie above it, the more the "
            "model listens to actions."
        )
        parts.append(figure(chart, caption))
        names = {
            f"mean_of_{samples}_over_copy": f"mean of {samples} / copying",
            "one_sample_over_copy": "one sample / copying",
            "shuffled_over_real": "shuffled / real actions",
            "noop_over_real": "no-op / real actions",
        }
        rows = [
            Row(names.get(key, key), r["mean"], r["low"], r["high"], "model" if key.endswith("copy") else "other")
            for key, r in sorted(world_model.get("ratios", {}).items(), key=lambda item: not item[0].endswith("copy"))
        ]
        if rows:
            chart = interval_chart(
                rows, "ratio of errors, mean over the window", reference=1.0, label="Controls as ratios"
            )
            parts.append(
                figure(chart, "Ratios of errors with 95 % bootstrap intervals over windows. Those to copying should "
                       "lie left of 1, the two controls right of it (wrong actions cost something).")
            )  # fmt: skip
    else:
        parts.append(note(f"No world-model evaluation; this measures it: {command('eval')}"))
    parts += [note(text) for text in world_model.get("notes", [])]
    return "".join(parts) + filmstrips(pictures, folder)


def filmstrips(pictures: Mapping[str, Any], folder: Path) -> str:
    """Rows of frames of the same moments, as base64 images."""
    strips = [
        html
        for place, strip in enumerate(pictures.get("strips", []))
        if (html := film(strip, pictures, folder, place, len(pictures["strips"])))
    ]
    if not strips:
        return note("No filmstrips: the pixel decoder or the pictures folder is missing.")
    c = pictures.get("frames_per_latent", 1)
    each = "one column is one latent step" + (f" of {c} frames, shown by its last" if c > 1 else "")
    lead = (
        f'<h3>Filmstrips</h3><p class="lead">Time runs to the right, {each}. <em>Real</em> is what was recorded, '
        "<em>reconstructed</em> what the pixel decoder makes of the real latents (the best that imagination could look "
        "like), <em>imagined</em> one sample of the model under the real actions. The windows are picked by rule: "
        "lower quartile, median and upper quartile of the model's error.</p>"
    )
    return lead + "".join(strips)


def film(strip: Mapping[str, Any], pictures: Mapping[str, Any], folder: Path, place: int, of: int) -> str:
    """One window's rows; empty if its files are gone."""
    rows = []
    for name, file in strip.get("rows", {}).items():
        path = folder / Path(str(file)).name
        if path.is_file():
            data = base64.b64encode(path.read_bytes()).decode("ascii")
            rows.append(
                f'<div class="row"><span>{escape(name)}</span>'
                f'<img alt="{escape(name)} frames" src="data:image/png;base64,{data}"></div>'
            )
    if not rows:
        return ""
    context, shown = pictures["context"], pictures["shown"]
    marks = "".join(
        f'<b class="dream">+{step - context + 1}</b>' if step >= context else "<b>given</b>" for step in shown
    )
    columns = f"grid-template-columns:repeat({len(shown)},1fr)"
    axis = f'<div class="row"><span></span><div class="axis" style="{columns}">{marks}</div></div>'
    missing = "" if "real" in strip["rows"] else " Its recording is gone, so the real frames are left out."
    ease = {0: "easy", of - 1: "hard"}.get(place, "typical") if of > 1 else "typical"
    caption = (
        f"{ease.capitalize()}: episode {strip['episode']}, from latent step {strip['start']}; error "
        f"{number(float(strip['error']))}.{missing}"
    )
    limit = f"max-width:{104 + 96 * len(shown)}px"  # few frames are not blown up
    return (
        f'<figure class="film" style="{limit}">{axis}{"".join(rows)}<figcaption>{escape(caption)}</figcaption></figure>'
    )


def recordings_section(recordings: Mapping[str, Any]) -> str:
    """Episodes, frames, returns and what the player did."""
    if not recordings.get("splits"):
        return note(str(recordings.get("missing", "No latent store: the recordings were not encoded in this run.")))
    rows = [
        f"<td>{escape(name)}</td><td>{s['episodes']}</td><td>{s['frames']:,}</td><td>{rounded(s['return_mean'])}</td>"
        f"<td>{rounded(s['return_min'])} to {rounded(s['return_max'])}</td>"
        for name, s in recordings["splits"].items()
    ]
    html = table(("Split", "Episodes", "Frames", "Mean return", "Range"), rows)
    shares = recordings.get("actions", {})
    if shares:
        top = max(shares.values()) or 1.0
        cells = [f"<td>{escape(name)}</td>{bar_cell(share / top, f'{share:.1%}')}" for name, share in shares.items()]
        half = (len(cells) + 1) // 2
        html += "<h3>Actions taken</h3>"
        html += f'<div class="pair">{table(("Action", "Share of steps"), cells[:half])}'
        html += f"{table(('Action', 'Share of steps'), cells[half:]) if cells[half:] else ''}</div>"
    return html


def time_section(timings: Mapping[str, float]) -> str:
    """Seconds a stage, in the order they ran, and the machine."""
    machine = f"{platform.machine()} {platform.system()}, {count_cores()} CPU cores, Python {platform.python_version()}"
    if not timings:
        return note("No timings.json: the stages were not timed.")
    longest, total = max(timings.values()), sum(timings.values())
    rows = [
        f"<td>{escape(name)}</td><td>{escape(duration(s))}</td>{bar_cell(s / longest, f'{s / total:.0%}')}"
        for name, s in timings.items()
    ]
    rows.append(f"<td><b>Together</b></td><td><b>{escape(duration(total))}</b></td><td></td>")
    return f'<p class="lead">Report written on {escape(machine)}.</p>' + table(("Stage", "Time", "Share"), rows)


def configuration_section(text: str) -> str:
    """The resolved configuration, folded."""
    if not text:
        return note("No config.yaml in the run directory.")
    return f"<details><summary>Every setting of this run</summary><pre>{escape(text)}</pre></details>"
