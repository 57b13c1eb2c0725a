"""The report's sections, each from its part of the run's files; what is missing is said."""

from __future__ import annotations

import base64
import math
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fastdreamer.evaluation.bootstrap import Interval
from fastdreamer.plotting.charts import Series, between, interval_chart, line_chart, number, rounded
from fastdreamer.plotting.html import Html, bar_cell, element, figure, joined, lead, note, table
from fastdreamer.plotting.png import PNG_SIGNATURE
from fastdreamer.report.verdict import NAMES, duration, interval_of, interval_row, say
from fastdreamer.system.advice import command
from fastdreamer.system.cores import count_cores
from fastdreamer.system.json_files import regular_bytes

TONES = {"random": "base", "phase2": "model", "phase2_greedy": "model", "phase3": "other", "phase3_greedy": "other"}
DIFFERENCES = {
    "phase2_minus_random": "cloning - random",
    "phase3_minus_phase2": "imagination - cloning",
    "phase3_minus_random": "imagination - random",
}


def evaluation_section(evaluation: Mapping[str, Any], recordings: Mapping[str, Any]) -> Html:
    """Returns with intervals as a chart and a table, differences world by world, achievements; for each task."""
    notes = joined(note(text) for text in evaluation.get("notes", []))
    entries = {str(name): entry for name, entry in evaluation.get("tasks", {}).items() if entry.get("policies")}
    if not entries and not evaluation.get("policies"):
        return notes or note(f"No closed-loop evaluation; this plays it: {command('eval')}")
    if not entries:
        return joined([notes, _played(evaluation, recordings)])
    demonstrated = recordings.get("tasks", {})
    shared = {"max_steps": evaluation.get("max_steps")}
    parts = [notes]
    for name, entry in entries.items():
        recorded = {**recordings, "return_capped": None, **demonstrated.get(name, {})}
        parts += [element("h3", f"Task {name}"), _played({**shared, **entry}, recorded)]
    return joined(parts)


def _played(evaluation: Mapping[str, Any], recordings: Mapping[str, Any]) -> Html:
    policies = evaluation["policies"]
    ordered: list[str] = [n for n in NAMES if n in policies] + [str(n) for n in policies if n not in NAMES]
    rows = [
        interval_row(NAMES.get(n, n), interval_of(policies[n]), TONES.get(n, "better"), policies[n].get("returns", ()))
        for n in ordered
    ]
    worlds = max(int(policies[name]["episodes"]) for name in ordered)
    cap = evaluation.get("max_steps")
    intro = f"Every policy plays the same {worlds} worlds, none of which was recorded"
    intro += f", for at most {cap} steps each." if cap else "."
    chart = interval_chart(rows, "return of an episode", label="Returns of every policy with 95 % intervals")
    caption = (
        "Large dots are mean returns, lines their 95 % bootstrap intervals over episodes, small dots single episodes. "
        "Policies whose lines do not overlap differ; where they overlap, the paired differences below decide."
    )
    parts = [lead(intro), figure(chart, caption)]
    cells = []
    for name in ordered:
        policy, mine = policies[name], interval_of(policies[name])
        length = f"{policy['length_mean']:,.0f}" if math.isfinite(policy["length_mean"]) else "n/a"
        cells.append(
            (NAMES.get(name, name), rounded(mine.mean), between(mine.low, mine.high), policy["episodes"], length)
        )
    demonstrated = recordings.get("return_capped")
    if demonstrated:
        length, range_ = f"{recordings['length_capped']:,.0f}", between(demonstrated["low"], demonstrated["high"])
        mean = rounded(demonstrated["mean"])
        cells.append(("The recordings themselves", mean, range_, recordings["episodes"], length))
    parts.append(table(("Policy", "Mean return", "95 % interval", "Episodes", "Mean length"), cells))
    differences = evaluation.get("differences", {})
    if differences:
        text = "; ".join(f"{DIFFERENCES.get(k, k)} {say(Interval.of(v), sign=True)}" for k, v in differences.items())
        parts.append(element("p", f"Difference in return on the same worlds, with 95 % intervals: {text}."))
    return joined([*parts, achievements(policies, ordered, recordings.get("achievements", {}))])


def achievements(policies: Mapping[str, Any], ordered: Sequence[str], demonstrated: Mapping[str, float]) -> Html:
    """Share of episodes that unlocked each achievement, by policy, commonest first."""
    columns = {NAMES.get(name, name): policies[name].get("achievements", {}) for name in ordered}
    if demonstrated:
        columns["Recordings"] = demonstrated
    names = {name for rates in columns.values() for name in rates}
    if not names:
        return Html()
    best = sorted(names, key=lambda name: (-max(rates.get(name, 0.0) for rates in columns.values()), name))
    nobody = element("td", "0%", class_="none")
    rows = []
    for name in best:
        found = (rates.get(name) for rates in columns.values())
        rows.append([name.replace("_", " "), *(bar_cell(rate, f"{rate:.0%}") if rate else nobody for rate in found)])
    intro = (
        "Share of episodes in which an achievement was unlocked at least once; those that nobody unlocked are left out."
    )
    return joined([element("h3", "Achievements"), lead(intro), table(("", *columns), rows, even=True)])


def world_model_section(world_model: Mapping[str, Any], pictures: Mapping[str, Any], folder: Path) -> Html:
    """The world model's section: error by horizon, controls, filmstrips."""
    parts = []
    if "horizons" in world_model:
        samples, context = world_model.get("samples", 8), world_model["context"]
        intro = (
            f"{world_model['crops']} windows of held-out episodes: {context} real latent steps, then the model "
            f"imagines {len(world_model['horizons'])} more under the recorded actions."
        )
        parts.append(lead(intro))
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
            interval_row(names.get(key, key), Interval.of(r), "model" if key.endswith("copy") else "other")
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
    return joined([*parts, filmstrips(pictures, folder)])


def filmstrips(pictures: Mapping[str, Any], folder: Path) -> Html:
    """Rows of frames of the same moments, as base64 images."""
    strips = [
        shown
        for place, strip in enumerate(pictures.get("strips", []))
        if (shown := film(strip, pictures, folder, place, len(pictures["strips"])))
    ]
    if not strips:
        return note("No filmstrips: the pixel decoder or the pictures folder is missing.")
    c = pictures.get("frames_per_latent", 1)
    each = "one column is one latent step" + (f" of {c} frames, shown by its last" if c > 1 else "")
    intro = element(
        "p",
        f"Time runs to the right, {each}. ", element("em", "Real"), " is what was recorded, ",
        element("em", "reconstructed"), " what the pixel decoder makes of the real latents (the best that imagination "
        "could look like), ", element("em", "imagined"), " one sample of the model under the real actions. The windows "
        "are picked by rule: lower quartile, median and upper quartile of the model's error.",
        class_="lead",
    )  # fmt: skip
    return joined([element("h3", "Filmstrips"), intro, *strips])


def film(strip: Mapping[str, Any], pictures: Mapping[str, Any], folder: Path, place: int, of: int) -> Html:
    """One window's rows; empty if its files are gone."""
    rows = []
    for name, file in strip.get("rows", {}).items():
        data = _picture(folder / Path(file).name)
        if data:
            source = f"data:image/png;base64,{base64.b64encode(data).decode('ascii')}"
            rows.append(
                element("div", element("span", name), element("img", alt=f"{name} frames", src=source), class_="row")
            )
    if not rows:
        return Html()
    context, shown = pictures["context"], pictures["shown"]
    marks = [
        element("b", f"+{step - context + 1}", class_="dream") if step >= context else element("b", "given")
        for step in shown
    ]
    columns = f"grid-template-columns:repeat({len(shown)},1fr)"
    axis = element("div", element("span"), element("div", *marks, class_="axis", style=columns), class_="row")
    missing = "" if "real" in strip["rows"] else " Its recording is gone, so the real frames are left out."
    ease = {0: "easy", of - 1: "hard"}.get(place, "typical") if of > 1 else "typical"
    caption = (
        f"{ease.capitalize()}: episode {strip['episode']}, from latent step {strip['start']}; error "
        f"{number(float(strip['error']))}.{missing}"
    )
    limit = f"max-width:{104 + 96 * len(shown)}px"  # few frames are not blown up
    return element("figure", axis, *rows, element("figcaption", caption), class_="film", style=limit)


def _picture(path: Path) -> bytes:
    """A picture of the run's own; nothing for what is missing, is none, or is a link to a file that is not shown."""
    try:
        data = b"" if path.parent.is_symlink() else regular_bytes(path, follows_links=False)
    except ValueError:
        return b""
    return data if data.startswith(PNG_SIGNATURE) else b""


def recordings_section(recordings: Mapping[str, Any]) -> Html:
    """Episodes, frames, returns and what the player did."""
    if not recordings.get("splits"):
        return note(str(recordings.get("missing", "No latent store: the recordings were not encoded in this run.")))
    rows = []
    for name, split in recordings["splits"].items():
        range_ = between(split["return_min"], split["return_max"])
        rows.append((name, split["episodes"], f"{split['frames']:,}", rounded(split["return_mean"]), range_))
    parts = [table(("Split", "Episodes", "Frames", "Mean return", "Range"), rows)]
    shares = recordings.get("actions", {})
    if shares:
        top = max(shares.values()) or 1.0
        cells = [(name, bar_cell(share / top, f"{share:.1%}")) for name, share in shares.items()]
        half = (len(cells) + 1) // 2
        halves = [table(("Action", "Share of steps"), some) for some in (cells[:half], cells[half:]) if some]
        parts += [element("h3", "Actions taken"), element("div", *halves, class_="pair")]
    return joined(parts)


def time_section(timings: Mapping[str, float]) -> Html:
    """Seconds a stage, in the order they ran, and the machine."""
    machine = f"{platform.machine()} {platform.system()}, {count_cores()} CPU cores, Python {platform.python_version()}"
    if not timings:
        return note("No timings.json: the stages were not timed.")
    longest, total = max(timings.values()) or 1.0, sum(timings.values()) or 1.0
    rows: list[tuple[object, ...]] = [
        (name, duration(s), bar_cell(s / longest, f"{s / total:.0%}")) for name, s in timings.items()
    ]
    rows.append((element("b", "Together"), element("b", duration(sum(timings.values()))), ""))
    return joined([lead(f"Report written on {machine}."), table(("Stage", "Time", "Share"), rows)])


def configuration_section(text: str) -> Html:
    """The resolved configuration, folded."""
    if not text:
        return note("No config.yaml in the run directory.")
    return element("details", element("summary", "Every setting of this run"), element("pre", text))
