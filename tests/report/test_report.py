"""The report: self-contained, complete, honest, and whole when parts of the run are missing."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastdreamer.errors import UserError
from fastdreamer.plotting.png import png
from fastdreamer.report.beside_reality import calibration_section
from fastdreamer.report.page import read_run, render, write_report
from fastdreamer.run.metrics import write_summary

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


def test_a_window_whose_recording_is_gone_says_so(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    path = run / "pictures" / "pictures.json"
    pictures = json.loads(path.read_text())
    del pictures["strips"][0]["rows"]["real"]
    path.write_text(json.dumps(pictures))
    html = render(read_run(run))
    assert "the real frames are left out" in html and Page(html).tags.count("img") == 2


def test_write_report_refuses_a_folder_that_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no run directory"):
        write_report(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"holds no config\.yaml"):
        write_report(tmp_path / "empty")


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
