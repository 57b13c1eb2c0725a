"""The report's section of flags: what `diagnose` and its audit found, and what was raised while a phase trained."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fastdreamer.plotting.charts import number, scatter_chart
from fastdreamer.plotting.html import Html, element, figure, joined, lead, note, table
from fastdreamer.report.curves import PHASES
from fastdreamer.system.advice import command

KINDS = {"recorded": "recorded play", "own": "the policy's own play"}
FIGURES = {
    "real": "real return",
    "imagined": "imagined return",
    "real_sum": "real reward, undiscounted",
    "imagined_sum": "imagined reward, undiscounted",
    "optimism": "optimism: imagined over real",
    "real_reliability": "reliability of real advantages",
    "imagined_reliability": "reliability of imagined advantages",
    "correlation": "correlation of advantages",
    "disattenuated": "the same without the noise of both",
    "gain_imagined": "real gain of imagination's favourite",
    "gain_best": "real gain of the really best",
    "gain_mode": "real gain of the policy's likeliest",
}


def said(figure: Mapping[str, float] | None) -> str:
    """A figure with its interval."""
    return "cannot tell" if figure is None else f"{figure['mean']:.3f} [{figure['low']:.3f}, {figure['high']:.3f}]"


def audit_block(audit: Mapping[str, Any]) -> Html:
    """How it was tried, the table, and the advantages as points; empty where nothing was audited."""
    kinds = {name: kind for name, kind in audit.get("kinds", {}).items() if name in KINDS}
    if not kinds:
        return Html()
    intro = (
        f"Every action was tried {audit['tries']} times from saved states, in the real game and in imagination; the "
        f"policy of phase {audit['phase']} then went on, for {audit['horizon']} latent steps in all. Figures are a "
        "try's, with 95 % intervals over states; gains are over the policy's average action."
    )
    rows = [[title, *(said(of["figures"].get(name)) for of in kinds.values())] for name, title in FIGURES.items()]
    head = ("", *(f"{KINDS[name]}, {of['states']} states" for name, of in kinds.items()))
    shown = "own" if "own" in kinds else next(iter(kinds))
    chart = scatter_chart(
        [(x, y) for x, y in kinds[shown]["points"]], "real advantage", "imagined advantage",
        label="Advantages of actions in imagination against the real game",
    )  # fmt: skip
    caption = (
        f"A point is an action in a state of {KINDS[shown]}: what it gains over the other actions, in the real game "
        "and in imagination. Phase 3 can improve the policy where the points lie along the dashed line; a round cloud "
        "says nothing about actions."
    )
    parts = [element("h3", "Imagination against the game"), lead(intro), table(head, rows), figure(chart, caption)]
    return joined([*parts, *(note(text) for text in audit.get("notes", []))])


TITLES = {f"phase{phase}": title for phase, title in PHASES.items() if phase}
HEAD = ("Check", "Found", "Expected", "Verdict")
TONES = {"red": "warn", "amber": "other", "ok": "better"}


def health_section(
    diagnosis: Mapping[str, Any], flags: Mapping[str, Any], audit: Mapping[str, Any] | None = None
) -> Html:
    """A block a phase: its flags with their remedies, phase 3's figures, and every check folded away; the audit."""
    phases = diagnosis.get("phases", {})
    raised = {name: flags[name] for name in TITLES if isinstance(flags.get(name), list) and flags[name]}
    audited = audit_block(audit or {})
    if not phases and not raised and not audited:
        return note(f"Not diagnosed; this does it: {command('diagnose')}")
    blocks: list[Html] = []
    for name, title in TITLES.items():
        if name in phases or name in raised:
            blocks.append(element("h3", title))
        if name in phases:
            blocks.append(_phase(phases[name]))
        if name in raised:
            blocks.append(_while_training(raised[name]))
    if audit and audited:
        blocks += [audited, _standing(audit.get("checks", []))]
    return joined(blocks)


def _phase(phase: Mapping[str, Any]) -> Html:
    checks = phase.get("checks", [])
    counts = {v: sum(check["verdict"] == v for check in checks) for v in ("ok", "amber", "red", "too early")}
    said = ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count)
    parts = [lead(f"{len(checks)} checks at step {phase.get('step', '?')}: {said}.")]
    parts.append(_standing(check for check in checks if check["verdict"] in ("red", "amber")))
    parts += [_rollouts(phase)] if "values" in phase else []
    rows = [
        (f"{check['group']}: {check['name']}", check["value"], check["expected"], _verdict("td", check))
        for check in checks
    ]
    parts.append(element("details", element("summary", "All checks"), table(HEAD, rows)))
    return joined(parts)


def _verdict(within: str, check: Mapping[str, Any]) -> Html:
    return element(within, check["verdict"], style=f"color:var(--{TONES.get(check['verdict'], 'base')})")


def _standing(checks: Iterable[Mapping[str, Any]]) -> Html:
    """Checks with their remedies, a paragraph each."""
    said = []
    for check in checks:
        remedy = f" {check['remedy']}." if check["remedy"] else ""
        text = f" {check['name']}: {check['value']}, expected {check['expected']}.{remedy}"
        said.append(element("p", _verdict("b", check), text, class_="note"))
    return joined(said)


def _rollouts(phase: Mapping[str, Any]) -> Html:
    """Values against returns; D+ and D-; imagined against real reward."""
    real = phase.get("real_reward")
    imagined = math.nan if phase["imagined_reward"] is None else phase["imagined_reward"]
    rewards = f"imagined reward {number(imagined)} a frame" + (
        f", real {number(real)} (as `eval` played it)" if real is not None else "; `eval` has not played it"
    )
    points = [(x, y) for x, y in phase["values"] if None not in (x, y)]
    chart = scatter_chart(points, "lambda-return", "value", label="Values against lambda-returns")
    caption = (
        f"The critic on imagined steps: on the dashed line it is right. Of these steps {phase['positive']} are in D+ "
        f"and {phase['negative']} in D- (PMPO needs both); {rewards}. An imagined reward far above the real one is a "
        "policy that exploits the reward head."
    )
    return figure(chart, caption)


def _while_training(raised: Sequence[Mapping[str, Any]]) -> Html:
    rows = [[flag.get(name, "") for name in ("step", "name", "value", "remedy")] for flag in raised]
    return joined([lead("Raised while it trained:"), table(("Step", "Check", "Found", "What helps"), rows)])
