"""`fastdreamer play` and `record --policy human` on the command line, and what they refuse."""

from __future__ import annotations

import importlib.util
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from fastdreamer import cli
from fastdreamer.commands import play_command
from fastdreamer.system.advice import extra
from play.sockets import page


def refusal(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    try:
        status = cli.main(words)
    except SystemExit as stop:
        status = int(str(stop.code))
    err = capsys.readouterr().err
    assert status == 2 and err.startswith("fastdreamer: error: ") and err.count("\n") == 1, err
    return err


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("play --run-dir R", "R is not a run directory"),
        ("play --run-dir R --port 70000", "70000 is no port"),
        ("play --run-dir R --port x", "invalid int value: 'x'"),
        ("record --policy human --out R data.env=vpt", "only crafter can be recorded here"),
        ("demo record.policy=human --run-dir R", "a person plays in the browser"),
    ],
)
def test_mistakes_are_one_line(words, line, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert line in refusal(words.split(), capsys)


def test_a_missing_library_names_the_extra(capsys, monkeypatch):
    real = importlib.util.find_spec
    missing = {"uvicorn"}
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name in missing else real(name, *a))
    for words in (["play"], ["record", "--policy", "human", "--out", "R"]):
        line = refusal(words, capsys)
        assert "the page needs uvicorn" in line and extra("play") in line


def test_without_a_run_and_without_a_world_that_ships(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(play_command, "EMBEDDED", tmp_path / "embedded")
    assert "name a run with --run-dir" in refusal(["play"], capsys)


class Started:
    """The command as a process, until it has said its address."""

    def __init__(self, *words: str) -> None:
        command = [sys.executable, "-c", "from fastdreamer.cli import run; run()", *words]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.line = self.process.stdout.readline()
        found = re.search(r":(\d+)/", self.line)
        self.port = int(found[1]) if found else 0

    def end(self, number: signal.Signals) -> tuple[int, str, str]:
        self.process.send_signal(number)
        out, err = self.process.communicate(timeout=30)
        return self.process.returncode, out, err


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_cleanly_with_the_recording_written(small_run, tmp_path, number):
    started = Started("play", "--run-dir", str(small_run), "--port", "0", "--record", str(tmp_path), "--json")
    assert re.fullmatch(r"play at http://127\.0\.0\.1:\d+/ \(Ctrl-C ends it\)\n", started.line)
    with page(started) as found:
        for _ in range(5):
            found.act(2)
        found.hears("view", step=5)
        code, out, err = started.end(number)
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        "session 1 begins",
        "session 1 ends after 5 steps: the server was stopped",
        '{"sessions": 1, "steps": 5}',
    ]
    (episode,) = (tmp_path / "Crafter-human").glob("v3_human_*")
    assert episode.name.endswith("_0-5") and (episode / "recording.mp4").is_file()
    assert not list(tmp_path.glob(".playing-*"))


@pytest.mark.slow
def test_a_port_in_use_and_other_hosts_are_one_line(small_run, capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        words = ["play", "--run-dir", str(small_run)]
        assert f"port {port} of 127.0.0.1 is in use" in refusal([*words, "--port", str(port)], capsys)
    line = refusal([*words, "--host", "0.0.0.0", "--port", "0"], capsys)
    assert "everybody who reaches this machine" in line and "--token" in line
    assert "its own settings" in refusal([*words, "imagination.gamma=0.5"], capsys)
    assert "its own settings" in refusal([*words, "--config", "crafter"], capsys)


def test_the_page_ships_with_the_package() -> None:
    assert (Path(play_command.__file__).parents[1] / "play" / "page" / "index.html").is_file()
