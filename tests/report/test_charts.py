"""The report's charts, curves and words: round, finite, and claiming no more than the numbers."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
from report.test_report import EVALUATION, WORLD_MODEL, policy

from fastdreamer.evaluation.bootstrap import Interval
from fastdreamer.evaluation.pictures import spread
from fastdreamer.plotting.charts import Row, Series, interval_chart, line_chart, number
from fastdreamer.plotting.png import png, strip
from fastdreamer.plotting.svg import ticks
from fastdreamer.report.beside_reality import one_sample_section
from fastdreamer.report.curves import curves, downsample, smooth
from fastdreamer.report.verdict import compare, policy_sentences, world_model_sentences
from fastdreamer.run.metrics import read_curves


def test_overlapping_intervals_are_said_to_overlap() -> None:
    low, high, between = Interval(1, 0.8, 1.2), Interval(4, 3, 5), Interval(1.1, 0.9, 1.3)
    assert compare(high, low, None).startswith("clearly better")
    assert compare(low, high, None).startswith("clearly worse")
    assert compare(between, low, None) == "the intervals overlap, so this run shows no difference"
    assert compare(between, low, Interval(0.1, -0.1, 0.3)).endswith("+0.10 [-0.10, 0.30]: no difference shown")
    assert "ahead by +0.10 [0.05, 0.15]" in compare(between, low, Interval(0.1, 0.05, 0.15))


def test_verdict_claims_no_more_than_the_numbers() -> None:
    text = " ".join(policy_sentences(EVALUATION) + world_model_sentences(WORLD_MODEL))
    assert "against 1.50 [1.20, 1.80] for random play over 30 worlds: clearly better" in text
    assert "no difference shown" in text
    assert "better than copying the last latent" in text and "lower at 1 of 2 horizons" in text
    assert "Shuffled actions multiply its error by 1.20 [1.10, 1.30], so it uses the actions" in text
    assert "this control does not show that it uses the actions" in text
    assert policy_sentences({"policies": {"phase2": policy(1)}}) == [] and world_model_sentences({}) == []


def test_metrics_of_a_resumed_and_killed_run_are_read_once(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    rows = [{"phase": 1, "step": s, "loss": v} for s, v in ((10, 3.0), (20, 2.0), (30, 9.0), (20, 1.9), (30, 1.5))]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"phase": 1, "st')
    assert read_curves(tmp_path) == {1: {"loss": [(10, 3.0), (20, 1.9), (30, 1.5)]}}


def test_curves_are_thinned_by_means_and_smoothed_without_a_shift() -> None:
    values = np.arange(1000.0)
    assert len(downsample(values, 100)) == 100 and downsample(values, 100)[0] == pytest.approx(4.5)
    assert downsample(values[:50], 100) is not None and len(downsample(values[:50], 100)) == 50
    assert smooth(values)[100:900] == pytest.approx(values[100:900])
    assert smooth(np.array([1.0, 2.0])).tolist() == [1.0, 2.0]


def test_charts_are_well_formed_for_awkward_values() -> None:
    awkward = [
        line_chart([Series("a", [1], [2.0])], "x"),
        line_chart([Series("a<&>", [1, 2, 3], [0.0, float("nan"), 0.0])], "x", zero=True, direct_labels=True),
        line_chart([Series("a", [1, 2], [1e-9, 1e9], faint=[0, 1])], "x"),
        interval_chart([Row("one", 1.0, 1.0, 1.0)], "x", reference=1.0),
        interval_chart([Row("one & <two>", -1.0, -2.0, 5.0, values=[1.0, 2.0])], "x"),
        interval_chart([Row("huge", 4e305, -1.7e308, 1.7e308, values=[1.0, float("nan")])], "x", reference=1.0),
        interval_chart([Row("none", float("nan"), 0.0, float("inf"))], "x"),
        line_chart([Series("a", [1, 2], [-1.7e308, 1.7e308], faint=[0, 1e308])], "x", zero=True),
    ]
    for svg in awkward:
        ElementTree.fromstring(svg)
        assert "nan" not in svg and "inf" not in svg


def test_held_out_curves_are_drawn_beside_their_training_curves() -> None:
    points = [(step, 1 / step) for step in range(1, 50)]
    metrics = {"loss/policy": points, "held_out/loss/policy": points, "held_out/only": points, "mine_own": points}
    html = curves(metrics, 2)
    assert html.count("<figure") == 3
    assert "training <b>" in html and "held out <b>" in html and "Mine own" in html and "Held out: only" in html


def test_few_worlds_are_said_to_be_few() -> None:
    few = {name: {**made, "episodes": 3} for name, made in EVALUATION["policies"].items()}
    assert "Only 3 worlds were played" in policy_sentences({"policies": few})[-1]


def test_a_ratio_that_is_printed_as_one_carries_no_verdict() -> None:
    ratio = {"mean": 1.001, "low": 1.0005, "high": 1.002}
    model = {**WORLD_MODEL, "ratios": {"shuffled_over_real": ratio}}
    assert "does not show" in world_model_sentences(model)[0]
    model = {**WORLD_MODEL, "ratios": {"shuffled_over_real": {"mean": 0.999, "low": 0.998, "high": 0.9995}}}
    assert "does not show" in world_model_sentences(model)[0]


def test_ticks_are_round_and_inside() -> None:
    assert ticks(0.0, 1.0) == [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert ticks(-3.0, 7.0) == [-2.0, 0.0, 2.0, 4.0, 6.0]
    assert ticks(1.0, 3.0, 12, whole=True) == [1.0, 2.0, 3.0]
    assert [number(v) for v in (0.00473, 12345.0, 4.0, 0.0, float("nan"))] == ["0.00473", "12,345", "4.00", "0", "n/a"]


def test_png_is_what_other_readers_read(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    frames = np.random.default_rng(0).integers(0, 256, (3, 5, 7, 3), dtype=np.uint8)
    (tmp_path / "a.png").write_bytes(png(strip(frames)))
    read = np.asarray(image.open(tmp_path / "a.png"))
    assert read.shape == (5, 21, 3) and np.array_equal(read[:, 7:14], frames[1])


def test_pictures_show_neither_the_best_nor_the_worst() -> None:
    errors = np.random.default_rng(0).permutation(101).astype(float)
    assert [errors[i] for i in spread(errors, 3)] == [25.0, 50.0, 75.0]
    assert spread(np.array([1.0]), 3) == [0]


def test_one_sample_stands_beside_copying_at_every_horizon() -> None:
    def ratio(mean: float) -> dict[str, float]:
        return {"mean": mean, "low": mean - 0.1, "high": mean + 0.1}

    world_model = WORLD_MODEL | {
        "one_sample_over_copy": [ratio(1.2), ratio(0.6)],
        "one_step": {"over_copy": ratio(1.2), "shuffled_over_real": ratio(1.7)},
        "reward_correlation": {
            "imagined_against_real": ratio(0.55), "imagined_against_recorded": None,
            "real_against_recorded": ratio(0.8), "steps": 288,
        },
    }  # fmt: skip
    html = one_sample_section(world_model)
    assert "at 1 of 2 horizons" in html and "1.20 [1.10, 1.30]" in html and "1.70 [1.60, 1.80]" in html
    assert "0.55 [0.45, 0.65]" in html and "288 imagined steps" in html and one_sample_section(WORLD_MODEL) == ""
