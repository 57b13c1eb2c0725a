"""Verdicts follow from the intervals: a gain, controls at 0, a ratio, and what the recordings earned."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fastdreamer.config import load_config
from fastdreamer.evaluation.closed_loop import Episodes
from fastdreamer.latents.store import LatentStore
from fastdreamer.latents.synthetic import write_synthetic_store
from fastdreamer.recordings.actions import action_space
from fastdreamer.study.play import Played
from fastdreamer.study.results import Seed, demonstrated, render, summarise
from fastdreamer.study.study_page import write_page

WORLDS = 60


def studied(gain: float, leak: float = 0.0, seeds: int = 5) -> dict[str, Any]:
    """Phase 3 earns `gain` more than phase 2, shuffled rewards `leak` more."""
    rng, made = np.random.default_rng(0), []
    for number in range(seeds):
        luck = rng.normal(4, 1, WORLDS)
        earned = {"random": 0.0, "phase2": 2.0, "phase3": 2.0 + gain, "shuffled_rewards": 2.0 + leak, "real_game": 4.0}
        arms = {
            arm: Played(
                Episodes(luck + mean + rng.normal(0, 1, WORLDS), np.full(WORLDS, 9), [frozenset()] * WORLDS), {}
            )
            for arm, mean in earned.items()
        }
        made.append(Seed(number, range(WORLDS * number, WORLDS * (number + 1)), {"wood": arms}, {}))
    config = load_config("debug", [f"evaluation.episodes={WORLDS}"])
    return summarise(config, made, seeds, [], {"wood": {}}, {"seed-0/phase1": 2.0, "seed-1/phase1": 1.0})


def verdicts(result: dict[str, Any]) -> dict[str, str]:
    return {verdict["name"]: verdict["verdict"] for verdict in result["verdicts"]}


def test_a_gain_with_controls_at_zero_is_green() -> None:
    result = studied(0.6)
    assert set(verdicts(result).values()) == {"ok"} and result["red"] == 0
    found = result["tasks"]["wood"]
    assert found["differences"]["phase3_minus_phase2"]["positive"] == 5
    assert found["phase3_over_phase2"]["mean"] == pytest.approx(6.6 / 6, abs=0.05)
    assert found["phase3_over_phase2"]["low"] > 1
    assert "real_game - phase2" in render(result | {"page": "p"}) and "ok   gain of phase 3 (wood)" in render(
        result | {"page": "p"}
    )


@pytest.mark.parametrize(
    ("gain", "leak", "red"),
    [
        (0.0, 0.0, {"gain of phase 3", "seeds that gain"}),
        (0.2, 0.0, {"gain of phase 3", "seeds that gain"}),  # a mean above 0 is not enough
        (-0.6, 0.0, {"gain of phase 3", "seeds that gain"}),
        (0.6, 0.6, {"control: shuffled rewards"}),
        (0.6, -0.6, {"control: shuffled rewards"}),
    ],
)
def test_what_is_not_shown_is_red(gain: float, leak: float, red: set[str]) -> None:
    result = studied(gain, leak)
    assert {name for name, verdict in verdicts(result).items() if verdict == "red"} == red
    assert result["red"] == len(red)


def test_the_page_is_plain_ascii_and_says_what_is_missing(tmp_path: Path) -> None:
    result = studied(0.6)
    write_page(result, load_config("debug"), tmp_path / "a study" / "study.html")
    page = (tmp_path / "a study" / "study.html").read_text()
    assert page.isascii() and "Task wood" in page and page.count("<svg") >= 2
    assert "no demonstrator to compare with" in page and "No world model was evaluated" in page
    assert "upwards in 5 of 5 seeds" in page and "a study" in page


def test_the_demonstrator_is_told_from_other_players_and_cut_where_an_evaluation_ends(tmp_path: Path) -> None:
    config = load_config("debug", ["evaluation.max_steps=10", "tasks.names=[wood]"])
    write_synthetic_store(tmp_path / "s", config.tokenizer.clock, action_space("crafter"), episodes=3, steps=9, seed=0)
    store = LatentStore.open(tmp_path / "s")
    assert store.episodes[0].rewarded
    names = ("v3_expert_crafter-0_0-9", "v3_expert_crafter-1_0-9", "v3_random_crafter-2_0-9")
    counters = [
        {"wood": np.r_[0, np.cumsum([rise] * (e.length - 1))]}
        for rise, e in zip((1, 3, 0), store.episodes, strict=True)
    ]
    store.episodes = [
        dataclasses.replace(e, name=name, counters={k: torch.from_numpy(v) for k, v in counter.items()})
        for e, name, counter in zip(store.episodes, names, counters, strict=True)
    ]
    found = demonstrated(config, store)["wood"]
    assert found["player"] == "expert" and found["episodes"] == 2 and found["length_mean"] == 10
    assert found["return_mean"] == pytest.approx(20) and found["players"] == {"expert": 20.0, "random": 0.0}
    store.episodes = [dataclasses.replace(e, rewarded=False) for e in store.episodes]
    plain = load_config("debug")
    assert demonstrated(plain, store) == {"reward": {}}
