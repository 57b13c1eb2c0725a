"""The report: self-contained, complete, honest, and whole when parts of the run are missing."""

from __future__ import annotations

import errno
import json
import os
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastdreamer.config import load_config
from fastdreamer.errors import UserError
from fastdreamer.evaluation.bootstrap import Interval
from fastdreamer.evaluation.pictures import spread
from fastdreamer.latents.synthetic import write_synthetic_store
from fastdreamer.plotting.charts import Row, Series, interval_chart, line_chart, number
from fastdreamer.plotting.png import png, strip
from fastdreamer.plotting.svg import ticks
from fastdreamer.recordings.actions import action_space
from fastdreamer.report import page as report
from fastdreamer.report import recorded_play as recordings
from fastdreamer.report.beside_reality import calibration_section, one_sample_section
from fastdreamer.report.curves import curves, downsample, smooth
from fastdreamer.report.flags_section import health_section
from fastdreamer.report.page import read_run, render, write_report
from fastdreamer.report.sections import evaluation_section, recordings_section, world_model_section
from fastdreamer.report.verdict import compare, policy_sentences, world_model_sentences
from fastdreamer.run.metrics import read_curves
from fastdreamer.run.summary import write_summary
from fastdreamer.settings import dump_config

SECTIONS = ("evaluation", "world-model", "curves", "recordings", "time", "configuration")


def policy(mean: float, half: float = 0.3) -> dict[str, Any]:
    return {
        "return_mean": mean, "return_low": mean - half, "return_high": mean + half, "episodes": 30,
        "length_mean": 250.0, "returns": [mean - 1, mean, mean + 1], "achievements": {"collect_wood": 0.5},
    }  # fmt: skip


EVALUATION = {
    "env": "crafter", "max_steps": 300, "notes": [],
    "policies": {"random": policy(1.5), "phase2": policy(4.0), "phase3": policy(4.2)},
    "differences": {"phase3_minus_phase2": {"mean": 0.2, "low": -0.1, "high": 0.5}},
}  # fmt: skip
WORLD_MODEL = {
    "horizons": [1, 2], "one_sample": [0.5, 0.7], "mean_of_8": [0.3, 0.5], "copy_last": [0.4, 0.45],
    "shuffled_actions": [0.4, 0.6], "noop_actions": [0.35, 0.5], "samples": 8, "context": 4, "crops": 64,
    "ratios": {"shuffled_over_real": {"mean": 1.2, "low": 1.1, "high": 1.3},
               "noop_over_real": {"mean": 1.1, "low": 0.9, "high": 1.2},
               "mean_of_8_over_copy": {"mean": 0.9, "low": 0.8, "high": 0.97}},
}  # fmt: skip
RECORDINGS = {
    "episodes": 5, "splits": {"train": {"episodes": 4, "frames": 900, "return_mean": 7.0, "return_min": 3.0,
                                        "return_max": 9.0}},
    "actions": {"do": 0.6, "noop": 0.4}, "achievements": {"collect_wood": 1.0}, "length_capped": 280.0,
    "return_capped": {"mean": 6.5, "low": 6.0, "high": 7.0},
}  # fmt: skip


def write_run(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "evaluation.json").write_text(json.dumps(EVALUATION))
    (folder / "world_model.json").write_text(json.dumps(WORLD_MODEL))
    (folder / "timings.json").write_text(json.dumps({"record": 3.2, "phase1": 75.0}))
    (folder / "config.yaml").write_text("seed: 0\n")
    lines = [
        {"phase": phase, "step": step, "loss/x": 1 / step, **extra}
        for phase, extra in ((0, {"psnr": 20.0}), (1, {"loss/flow": 0.4}), (2, {"bc_accuracy": 0.6,
                             "majority_accuracy": 0.3}), (3, {"imagined_return": None}))
        for step in range(10, 400, 10)
    ]  # fmt: skip
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    pictures = folder / "pictures"
    pictures.mkdir()
    image = png(np.zeros((8, 32, 3), np.uint8))
    for name in ("real", "reconstructed", "imagined"):
        (pictures / f"crop0_{name}.png").write_bytes(image)
    rows = {name: f"crop0_{name}.png" for name in ("real", "reconstructed", "imagined")}
    strips = [{"episode": "v3_<b>player_mob-1", "start": 3, "error": 0.4, "rows": rows}]
    (pictures / "pictures.json").write_text(
        json.dumps({"context": 2, "steps": 4, "shown": [0, 1, 2, 3], "frames_per_latent": 1, "strips": strips})
    )
    return folder


class Page(HTMLParser):
    """Collects ids, tags and attributes, and checks that tags are closed in order."""

    VOID = frozenset({"meta", "img", "br"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.tags: list[str] = []
        self.links: list[str] = []
        self.open: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.open += [tag] if tag not in self.VOID else []
        for name, value in attrs:
            self.ids += [value or ""] if name == "id" else []
            self.links += [value or ""] if name in ("src", "href", "action", "data", "poster", "srcset") else []

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, tag


def test_report_is_whole_and_refers_to_nothing_outside(tmp_path: Path) -> None:
    html = render(read_run(write_run(tmp_path / "run"), RECORDINGS))
    page = Page(html)
    assert page.open == [] and [i for i in page.ids if i in SECTIONS] == list(SECTIONS)
    assert all(link.startswith(("data:image/png;base64,", "#")) for link in page.links)
    assert {link[1:] for link in page.links if link.startswith("#")} <= set(page.ids)
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert not re.search(r"https?:|url\(|@import", html)
    assert html.isascii() or "charset" in html
    for text in ("Behaviour cloning scores 4.00 [3.70, 4.30] against 1.50", "collect wood", "Phase 3", "1 min 15 s",
                 "seed: 0", "shuffled actions", "The recordings themselves"):  # fmt: skip
        assert text in html, text
    assert page.tags.count("img") == 3 and page.tags.count("svg") > 6


def test_report_survives_whatever_is_missing(tmp_path: Path) -> None:
    parts = ("evaluation.json", "world_model.json", "timings.json", "metrics.jsonl", "pictures/pictures.json")
    for number_, part in enumerate(parts):
        run = write_run(tmp_path / str(number_))
        (run / part).unlink()
        page = Page(render(read_run(run)))
        assert page.open == [] and [i for i in page.ids if i in SECTIONS] == list(SECTIONS)
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "config.yaml").write_text("seed: 0\n")
    html = render(read_run(bare))
    for text in ("No closed-loop evaluation", "No world-model evaluation", "No metrics.jsonl", "No timings.json",
                 "No latent store", "no closed-loop evaluation and no world-model evaluation"):  # fmt: skip
        assert text in html, text


def test_broken_files_are_named_not_fatal(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    (run / "evaluation.json").write_text('{"policies": ')
    (run / "timings.json").write_text("[1, 2]")
    html = render(read_run(run))
    assert "evaluation.json is damaged" in html and "timings.json is damaged" in html
    (run / "evaluation.json").write_text("[" * 100_000)
    assert "evaluation.json is damaged (it is nested too deeply)" in render(read_run(run))
    evaluation = json.loads(json.dumps(EVALUATION))
    del evaluation["policies"]["phase2"]["return_low"]
    (run / "evaluation.json").write_text(json.dumps(evaluation))
    assert "evaluation.json is damaged (policies.phase2 has no return_low): left out" in render(read_run(run))


DIAGNOSIS = {
    "phases": {
        "phase3": {
            "step": 4, "verdict": "red", "values": [[0.5, 0.25], [1.0, 0.75]], "positive": 11, "negative": 12,
            "imagined_reward": 0.5, "real_reward": None,
            "checks": [{"group": "loss", "name": "loss", "value": "1", "expected": "2", "verdict": "red",
                        "remedy": "none"}],
        }
    }
}  # fmt: skip
FLAGS = {"phase2": [{"step": 3, "name": "entropy", "value": "0", "remedy": "more"}]}
AUDIT = {
    "tries": 2, "phase": 3, "horizon": 4, "notes": ["a note"], "checks": [],
    "kinds": {"own": {"states": 3, "points": [[0.5, 0.25]], "figures": {"real": {"mean": 1, "low": 0, "high": 2}}}},
}  # fmt: skip
FULL_WORLD_MODEL = {
    **WORLD_MODEL, "notes": ["a note"], "one_sample_over_copy": [{"mean": 1.0, "low": 0.9, "high": 1.1}] * 2,
    "one_step": {name: {"mean": 1.0, "low": 0.9, "high": 1.1} for name in ("over_copy", "shuffled_over_real")},
    "reward_correlation": {"imagined_against_real": {"mean": 0.5, "low": 0.25, "high": 0.75}, "steps": 8,
                           "imagined_against_recorded": None, "real_against_recorded": None},
}  # fmt: skip
SCRIPT = "<script>alert(1)</script>"
WRONG = (SCRIPT, None, -1, 1e308, 10**400, float("nan"), float("inf"), [], {}, [[SCRIPT]], {SCRIPT: SCRIPT}, True)


def full_run(folder: Path) -> tuple[Path, dict[str, Any]]:
    run = write_run(folder)
    (run / "diagnosis").mkdir()
    (run / "metrics.jsonl").unlink()  # drawing curves takes most of a page's time
    parts = {
        "evaluation.json": {**EVALUATION, "tasks": {"wood": {"policies": {"phase2": policy(1.0)}}},
                            "reward_calibration": {"phase2": judged(2.6, 0.9)}},
        "world_model.json": FULL_WORLD_MODEL, "diagnosis.json": DIAGNOSIS, "flags.json": FLAGS,
        "diagnosis/audit.json": AUDIT, "timings.json": {"record": 3.2},
        "pictures/pictures.json": json.loads((run / "pictures/pictures.json").read_text()),
    }  # fmt: skip
    for name, value in parts.items():
        (run / name).write_text(json.dumps(value))
    return run, parts


def places(value: Any) -> list[tuple[Any, Any]]:
    """(container, key) of everything inside a JSON value."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [found for key, entry in inside for found in [(value, key), *places(entry)]]


def test_whatever_stands_in_a_runs_files_gives_a_page_without_script(tmp_path: Path) -> None:
    run, parts = full_run(tmp_path / "run")
    assert "is damaged" not in render(read_run(run))
    turn = 0
    for name, value in parts.items():
        for container, key in places(value):
            kept = container[key]
            for wrong in (SCRIPT, WRONG[turn % len(WRONG)]):
                container[key] = wrong
                (run / name).write_text(json.dumps(value))
                page = Page(render(read_run(run)))
                assert page.open == [] and "script" not in page.tags, (name, key, wrong)
            container[key] = kept
            turn += 1
        (run / name).write_text(json.dumps(value))


def test_markup_is_escaped_even_where_nobody_looked_before(tmp_path: Path) -> None:
    sections = (
        (evaluation_section, ({**EVALUATION, "max_steps": SCRIPT, "notes": [SCRIPT]}, {})),
        (health_section, ({"phases": {"phase2": {"checks": [], "step": SCRIPT}}}, {})),
        (world_model_section, ({**WORLD_MODEL, "context": SCRIPT, "crops": SCRIPT}, {}, tmp_path)),
        (recordings_section, ({"splits": {SCRIPT: {**RECORDINGS["splits"]["train"], "episodes": SCRIPT}}},)),
    )
    for section, given in sections:
        html = section(*given)
        assert "&lt;script" in html and "<script" not in html, section
    counted = {**EVALUATION["policies"]["phase2"], "episodes": SCRIPT}
    with pytest.raises(ValueError):
        evaluation_section({"policies": {"phase2": counted}}, {})
    assert "default-src 'none'" in render(read_run(write_run(tmp_path / "run")))


def test_links_are_not_shown(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "key").write_text("hunter2")
    (secret / "own.png").write_bytes(png(np.full((8, 32, 3), 7, np.uint8)))
    (secret / "evaluation.json").write_text(json.dumps({"env": "hunter2"}))
    run = write_run(tmp_path / "run")
    for name, target in (("config.yaml", "key"), ("evaluation.json", "evaluation.json")):
        (run / name).unlink()
        (run / name).symlink_to(secret / target)
    (run / "pictures" / "crop0_real.png").unlink()
    (run / "pictures" / "crop0_real.png").symlink_to(secret / "own.png")
    (run / "pictures" / "crop0_imagined.png").write_text("hunter2")
    html = render(read_run(run))
    assert "hunter2" not in html and Page(html).tags.count("img") == 1
    assert "config.yaml is not shown: it is a link" in html and "evaluation.json is damaged (it is a link)" in html
    (run / "pictures").rename(secret / "pictures")
    (run / "pictures").symlink_to(secret / "pictures")
    assert Page(render(read_run(run))).tags.count("img") == 0


def test_what_the_disk_does_not_give_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(given: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO), "there")

    monkeypatch.setattr(report, "read_curves", fail)
    monkeypatch.setattr(recordings, "_achievements", fail)
    config = load_config("debug", ["data.recordings=/nonexistent"])
    run = write_run(tmp_path / "run")
    dump_config(config, run / "config.yaml")
    write_synthetic_store(run / "store", config.tokenizer.clock, action_space("crafter"), 2, 6, 0)
    html = Path(write_report(run)["path"]).read_text()
    assert "metrics.jsonl cannot be read (Input/output error)" in html and "are not summarised: [Errno 5]" in html


@pytest.mark.parametrize("make", [lambda path: path.symlink_to("/etc/hostname"), os.mkfifo, Path.mkdir])
def test_metrics_that_are_no_file_cost_the_curves_alone(tmp_path: Path, make: Callable[[Path], None]) -> None:
    run = write_run(tmp_path / "run")
    (run / "metrics.jsonl").unlink()
    make(run / "metrics.jsonl")
    html = Path(write_report(run)["path"]).read_text()
    assert "metrics.jsonl is " in html and "left out" in html and "Cloning" in html


def test_no_figure_is_shown_as_nan(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    text = (run / "evaluation.json").read_text()
    (run / "evaluation.json").write_text(re.sub(r"-?\d+\.\d+", "NaN", text))
    assert not re.search(r">\s*-?(nan|inf)\s*<", Path(write_report(run)["path"]).read_text())


def test_damaged_lines_of_metrics_are_left_out(tmp_path: Path) -> None:
    lines = [b"[" * 50_000, b"\xff\xfe", b"[1]", b"null", b'{"step": 5}', b'{"phase": "1", "step": 5, "loss": 1.0}',
             b'{"phase": 1, "step": 1e3, "loss": 1.0}', b'{"phase": 1, "step": -1, "loss": 1.0}',
             b'{"phase": 1, "step": 7, "loss": ' + b"9" * 5000 + b"}",
             b'{"phase": 1, "step": 8, "loss": 1' + b"0" * 400 + b', "psnr": "x"}',
             b'{"phase": 1, "step": 9, "loss": 2.5}']  # fmt: skip
    (tmp_path / "metrics.jsonl").write_bytes(b"\n".join(lines))
    assert read_curves(tmp_path) == {1: {"loss": [(9, 2.5)]}}


def test_a_window_whose_recording_is_gone_says_so(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    path = run / "pictures" / "pictures.json"
    pictures = json.loads(path.read_text())
    del pictures["strips"][0]["rows"]["real"]
    path.write_text(json.dumps(pictures))
    html = render(read_run(run))
    assert "the real frames are left out" in html and Page(html).tags.count("img") == 2


def test_names_are_escaped(tmp_path: Path) -> None:
    run = write_run(tmp_path / "<i>run & co")
    evaluation = json.loads((run / "evaluation.json").read_text())
    evaluation["policies"]["<script>alert(1)</script>"] = policy(1.0)
    evaluation["policies"]["phase2"]["achievements"] = {"<b>wood</b>": 1.0}
    (run / "evaluation.json").write_text(json.dumps(evaluation))
    (run / "config.yaml").write_text("name: </pre><script>\u00e9\u4e16\n", encoding="utf-8")
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"phase": 1, "step": 1, "<u>loss": 1.0}) + "\n")
    html = render(read_run(run))
    page = Page(html)
    assert page.open == [] and not {"script", "u", "b>wood"} & set(page.tags)
    assert "\u00e9\u4e16" in html and "&lt;i&gt;run &amp; co" in html and "<b>wood" not in html


def test_write_report_refuses_a_folder_that_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no run directory"):
        write_report(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"holds no config\.yaml"):
        write_report(tmp_path / "empty")


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


def test_summary_merges_all_parts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path / "run")
    summary = write_summary(run)
    assert summary == json.loads((run / "summary.json").read_text())
    assert set(summary["eval"]["policies"]) == {"random", "phase2", "phase3"}
    assert summary["world_model"]["ratios"]["shuffled_over_real"]["mean"] == 1.2
    assert summary["losses"]["phase1"]["loss/flow"] == 0.4 and summary["losses"]["phase2"]["bc_accuracy"] == 0.6
    assert summary["seconds"] == {"record": 3.2, "phase1": 75.0}
    (run / "timings.json").write_text('{"record": "3"}')
    assert write_summary(run)["seconds"] == {}
    assert 'timings.json is damaged (record is "3", not a number of seconds)' in capsys.readouterr().err
    (run / "evaluation.json").write_text("{")
    with pytest.raises(UserError, match=r"evaluation\.json"):
        write_summary(run)


def judged(predicted: float, low: float) -> dict[str, Any]:
    def flat(mean: float) -> dict[str, float]:
        return {"mean": mean, "low": mean, "high": mean}

    return {
        "predicted": flat(predicted), "paid": flat(2.5), "ratio": {"mean": predicted / 2.5, "low": low, "high": None},
        "kinds": {"unpaid_steps": {"predicted": flat(1.25), "paid": flat(0.0), "steps": 9}}, "auc": 0.75,
        "correlation": None, "critic": {"value": flat(9.5), "with_rest": flat(2.25)},
    }  # fmt: skip


def test_predicted_reward_stands_beside_what_was_paid_with_what_helps(tmp_path: Path) -> None:
    entries = {"recordings": judged(2.6, 0.9), "phase2": judged(22.6, 5.0)}
    html = calibration_section({"reward_calibration": entries})
    assert re.findall(r"<td>(Cloning|Recordings)</td>", html) == ["Cloning", "Recordings"]
    for text in ("22.60 [22.60, 22.60]", "9.04 [5.00, ?]", "1.25", "0.75", "9.50", "2.25"):
        assert text in html
    assert "record.noisy_share" in html and html.count("heads.reward_dropout") == 1
    assert "record.noisy_share" not in calibration_section({"reward_calibration": {"phase2": judged(2.6, 0.9)}})
    assert calibration_section({}) == ""
    tasks = {name: {"reward_calibration": entries} for name in ("wood", "drink")}
    assert re.findall(r"paid reward: task (\w+)", calibration_section({"tasks": tasks})) == ["wood", "drink"]
    run = write_run(tmp_path / "run")
    (run / "evaluation.json").write_text(json.dumps(EVALUATION | {"reward_calibration": entries}))
    assert "Predicted against paid reward" in Path(write_report(run)["path"]).read_text()


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
