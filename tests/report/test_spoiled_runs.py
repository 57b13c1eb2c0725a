"""The report of a run whose files are damaged, hostile or links: a whole page, without what does not belong there."""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from report.test_report import EVALUATION, RECORDINGS, WORLD_MODEL, Page, judged, policy, write_run

from fastdreamer.config import load_config
from fastdreamer.latents.synthetic import write_synthetic_store
from fastdreamer.plotting.png import png
from fastdreamer.recordings.actions import action_space
from fastdreamer.report import page as report
from fastdreamer.report import recorded_play as recordings
from fastdreamer.report.flags_section import health_section
from fastdreamer.report.page import read_run, render, write_report
from fastdreamer.report.sections import evaluation_section, recordings_section, world_model_section
from fastdreamer.run.metrics import read_curves
from fastdreamer.settings import dump_config


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
