"""Runs `fastdreamer profile` on the debug preset, smaller still."""

from __future__ import annotations

import ctypes
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fastdreamer import cli
from fastdreamer.errors import UserError
from fastdreamer.tools.profiling import pyspy

SMALL = [
    "--config",
    "debug",
    "device=cpu",
    "precision=fp32",
    "dynamics.dim=16",
    "dynamics.layers=2",
    "imagination.horizon=2",
]
QUICK = ["--warmup", "1", "--steps", "1"]


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., dict[str, Any]]:
    """Runs the command and returns its line of JSON."""

    def profile(*words: str) -> dict[str, Any]:
        assert cli.main(["profile", "--json", "--out", str(tmp_path / "out"), *words]) == 0
        return dict(json.loads(capsys.readouterr().out.splitlines()[-1]))

    return profile


@pytest.fixture
def visible() -> None:
    """Lets the profiler, which is this process's child, look at it where the kernel asks for leave (Yama)."""
    ctypes.CDLL(None).prctl(0x59616D61, -1, 0, 0, 0)
    try:
        pyspy._run([pyspy.find_pyspy(), "dump", "--pid", str(os.getpid())])
    except UserError as error:
        if "may not look" in str(error):
            pytest.skip(str(error))
        raise


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], Path]:
    """Puts a program of that name first on the PATH."""

    def put(name: str, text: str) -> Path:
        program = tmp_path / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(text)
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
        return program

    return put
