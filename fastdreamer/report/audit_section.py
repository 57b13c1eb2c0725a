"""The report's part on the audit: what `diagnose --audit` found of imagination against the real game."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastdreamer.plotting.charts import scatter_chart
from fastdreamer.plotting.html import Html, element, figure, joined, lead, note, table

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
