"""Progress: a bar on a terminal, a few plain lines elsewhere."""

from __future__ import annotations

import sys
import time

from fastdreamer.system import progress


def test_progress_off_a_terminal_is_a_few_plain_lines(capsys, monkeypatch):
    with progress.track("encode", total=1000, unit="frames", start=100) as bar:
        for _ in range(900):
            bar.advance(1, loss=0.5)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("encode: 1,000/1,000 frames, ") and "loss 0.5" in lines[0]
    monkeypatch.setattr(progress, "PLAIN_INTERVAL_S", 0.0)
    with progress.track("encode", total=2) as bar:
        bar.advance(1)
        time.sleep(0.01)
    out, err = capsys.readouterr()
    assert "encode: 1/2 steps" in err and "left" in err and "GiB" in err and out == ""


def test_progress_on_a_terminal_is_a_bar(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with progress.track("train", total=10) as bar:
        bar.advance(10, loss=0.25)
    out, err = capsys.readouterr()
    assert "train" in err and "10/10" in err and "loss 0.25" in err and out == ""
