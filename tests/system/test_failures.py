"""Errors of torch.compile are one line, whatever a C compiler says; a library is not blamed for them."""

from __future__ import annotations

import pytest
import torch
from torch._inductor.exc import CppCompileError

from fastdreamer import cli, commands


def test_code_that_cannot_be_compiled_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    def call(arguments):
        exec(
            compile("raise error\n", "generated.py", "exec"), {"error": error, "__name__": "torch._inductor.generated"}
        )

    error = CppCompileError(["g++", "x.cpp"], "a warning\n" * 1000)
    monkeypatch.setattr(commands, "run_command", call)
    monkeypatch.setattr(cli, "run_command", call)
    assert cli.main(["doctor"]) == 2
    line = capsys.readouterr().err.strip()
    assert line.startswith("fastdreamer: error: torch.compile failed (CppCompileError: C++ compile error")
    assert line.endswith("use compile=off") and len(line) < 400


def test_an_error_in_what_is_compiled_is_no_broken_library(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    def broken(x):
        return torch.linalg.lu_factor_ex(x, check_errors="no such thing")

    def call(arguments):
        torch.compile(broken, fullgraph=True, backend="eager")(torch.eye(2))

    monkeypatch.setattr(cli, "run_command", call)
    assert cli.main(["doctor"]) == 2
    assert "torch.compile failed (" in capsys.readouterr().err
