"""A run's files are read and written in one place."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from fastdreamer.errors import UserError
from fastdreamer.report.flags_section import _rollouts
from fastdreamer.run import run_files
from fastdreamer.run.run_files import DIAGNOSIS, TIMINGS

ROOT = Path(__file__).parents[2]
OWNERS = ("run/run_files.py", "run/metrics.py", "system/failures.py")  # the last runs where all else may be broken


def test_missing_is_empty_damaged_is_named_and_written_is_whole(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert TIMINGS.read(tmp_path) == {}
    TIMINGS.write(tmp_path, {"record": 1.5})
    assert TIMINGS.read(tmp_path) == {"record": 1.5}
    (tmp_path / "timings.json").write_text('{"record": "3"}')
    with pytest.raises(UserError, match=r"timings\.json is damaged \(record is .*\): run the command"):
        TIMINGS.read(tmp_path)
    assert TIMINGS.read_or_note(tmp_path, "measured anew") == {}
    assert "timings.json is damaged" in capsys.readouterr().err
    with pytest.raises(ValueError, match="JSON"):
        TIMINGS.write(tmp_path, {"record": float("nan")})


def test_a_diagnosis_of_numbers_that_are_not_finite_is_written_and_read(tmp_path: Path) -> None:
    nan, infinite = float("nan"), float("inf")
    phase = {"step": 3, "checks": [], "positive": 1, "negative": 2, "imagined_reward": nan, "real_reward": infinite}
    DIAGNOSIS.write(tmp_path, {"phases": {"phase3": phase | {"values": [(1.0, nan), (0.5, 2.0)]}}})
    found = DIAGNOSIS.read(tmp_path)["phases"]["phase3"]
    assert found["imagined_reward"] is None and found["values"] == [[1.0, None], [0.5, 2.0]]
    assert "imagined reward n/a" in _rollouts(found)


def test_no_other_file_names_what_lies_in_a_run() -> None:
    owned = {file.name for file in vars(run_files).values() if isinstance(file, run_files.RunFile)}
    owned |= {run_files.CONFIG, "checkpoints", "metrics.jsonl"}
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}: {node.value}"
        for path in sorted((ROOT / "fastdreamer").rglob("*.py"))
        if not path.as_posix().endswith(OWNERS)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and node.value in owned
    ]
    assert found == []
