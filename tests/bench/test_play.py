"""Play's benchmark and pictures: what they are made of, without a browser."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from bench import browsers
from bench.play_pictures import CAST_WIDTH, LAST_MS, animated
from bench.suites import play
from bench.suites.command import main, parser_of
from fastdreamer.errors import UserError


def png(shade: int) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.full((100, 2 * CAST_WIDTH, 3), shade, np.uint8)).save(out, "PNG")
    return out.getvalue()


def test_a_screencast_has_every_frame_made_smaller_and_rests_on_the_last():
    made = Image.open(io.BytesIO(animated([png(0), png(120), png(250)])))
    assert (made.n_frames, made.size) == (3, (CAST_WIDTH, 50))
    made.seek(2)
    made.load()
    assert made.info["duration"] == LAST_MS


def test_a_run_that_is_not_there_is_one_line(capsys, tmp_path):
    with pytest.raises(SystemExit) as stop:
        main(["play", str(tmp_path / "none")])
    assert stop.value.code == 2 and "name a trained run" in capsys.readouterr().err
    assert parser_of("play").parse_args([]).browser == 0


def test_no_browser_is_a_line_that_installs_one(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("PLAYWRIGHT_BROWSERS_PATH", str(tmp_path))
    monkeypatch.delenv(browsers.VARIABLE, raising=False)
    with pytest.raises(UserError, match="apt-get install -y chromium"):
        browsers.find_browser()
    monkeypatch.setenv(browsers.VARIABLE, "/somewhere/chromium")
    assert browsers.find_browser() == "/somewhere/chromium"


def test_memory_is_looked_at_along_the_way():
    class Session:
        class loaded:
            class space:
                sizes = (17,)

        def step(self, action):
            return type("View", (), {"said": {"over": None}})

    line = play.memory(Session(), 20)
    assert line.startswith("memory over 20 steps, MiB: ") and len(line.split(": ")[1].split()) == play.LOOKS
