"""One process writes in a run directory; a kill leaves nothing in the way of the next one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fastdreamer import cli, commands
from fastdreamer.config import load_config
from fastdreamer.errors import Stopped, UserError
from fastdreamer.evaluation.evaluate import evaluate
from fastdreamer.report.page import write_report
from fastdreamer.run import lock as module
from fastdreamer.run.lock import place_of, refuse_ranks, run_lock
from fastdreamer.run.metrics import write_summary
from fastdreamer.tools.diagnosis.diagnose import diagnose
from fastdreamer.training.train import train

HOLDER = """
import sys; from pathlib import Path; from fastdreamer.run.lock import run_lock
with run_lock(Path(sys.argv[1]), shared=len(sys.argv) > 2):
    print("held", flush=True)
    sys.stdin.readline()
"""
WRITERS = ["demo", "diagnose", "encode", "eval", "profile --phase 1", "report", "study", "train --phase 1"]


@contextmanager
def holder(run: Path, *shared: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", HOLDER, str(run), *shared]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


def error_of(words: str, run: Path, capsys: pytest.CaptureFixture[str]) -> str:
    assert cli.main([*words.split(), "--run-dir", str(run)]) == 2
    err = capsys.readouterr().err
    assert err.startswith("fastdreamer: error: ") and err.count("\n") == 1
    return err


@pytest.fixture
def reached(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The commands that get as far as their work."""
    names: list[str] = []
    for name in commands.COMMANDS:
        monkeypatch.setitem(commands.COMMANDS, name, lambda arguments: names.append(arguments.command) or {})
    return names


def test_whatever_writes_in_a_run_is_refused_while_another_does_and_a_kill_leaves_no_lock(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], reached: list[str]
) -> None:
    run = tmp_path / "run [1]"
    with holder(run) as process:
        for words in WRITERS:
            error = error_of(words, run, capsys)
            assert f"{run} is in use by process {process.pid} on " in error and "another --run-dir" in error
        assert reached == []
        for words in ("plan", "doctor", "profile --pid 1", f"profile --dump {process.pid}"):
            assert cli.main([*words.split(), "--run-dir", str(run)]) == 0
        process.kill()
        process.wait()
        assert (run / ".lock").exists()
        for words in WRITERS:
            assert cli.main([*words.split(), "--run-dir", str(run)]) == 0
    assert list(run.iterdir()) == []


def test_several_encode_beside_one_another_and_none_beside_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], reached: list[str]
) -> None:
    with holder(tmp_path, "shared") as process:
        assert cli.main(["encode", "--run-dir", str(tmp_path)]) == 0 and (tmp_path / ".lock").exists()
        assert "is in use by" in error_of("train --phase 1", tmp_path, capsys)
        process.communicate("go\n")
    assert reached == ["encode"] and list(tmp_path.iterdir()) == []


def test_a_holder_holds_for_all_that_it_calls_and_clears_what_it_made(tmp_path: Path) -> None:
    run = tmp_path / "new" / "run"
    with run_lock(run):
        with run_lock(tmp_path / "new" / ".." / "new" / "run"):
            pass
        assert (run / ".lock").exists()
    assert list(tmp_path.iterdir()) == []
    with run_lock(run):
        (run / "kept").touch()
        (run / ".flags.json.tmp").touch()  # of a killed writer
    with run_lock(run):
        pass
    assert list(run.iterdir()) == [run / "kept"]


def test_a_lock_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "letter").write_text("dear")
    (tmp_path / ".lock").symlink_to(tmp_path / "letter")
    with pytest.raises(UserError, match=r"\.lock is no file"), run_lock(tmp_path):
        pass
    assert (tmp_path / "letter").read_text() == "dear"


def test_a_disk_without_locks_is_said_and_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def none(*given: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(module.fcntl, "flock", none)
    with run_lock(tmp_path):
        pass
    assert "no locks (Operation not supported)" in capsys.readouterr().err


def test_ranks_of_torchrun_are_told_what_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for rank in ("0", "1"):
        for name, value in (("RANK", rank), ("LOCAL_RANK", rank), ("WORLD_SIZE", "2")):
            monkeypatch.setenv(name, value)
        error = error_of("eval --config debug", tmp_path / "run", capsys)
        assert f"this is rank {rank} of 2 that torchrun started" in error and "without torchrun" in error
    assert list(tmp_path.iterdir()) == []
    refuse_ranks({"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"})
    refuse_ranks({"WORLD_SIZE": "8"})  # a batch system's, which started one process
    monkeypatch.setenv("RANK", "1")
    with (
        holder(tmp_path / "run"),
        pytest.raises(UserError, match="and this is rank 1 of 2"),
        run_lock(tmp_path / "run"),
    ):
        pass


def test_functions_of_the_library_hold_the_run_too(tmp_path: Path) -> None:
    config = load_config("debug")
    work = {
        "train": lambda: train(config, tmp_path, 1),
        "evaluate": lambda: evaluate(config, tmp_path),
        "diagnose": lambda: diagnose(config, tmp_path),
        "write_summary": lambda: write_summary(tmp_path),
        "write_report": lambda: write_report(run_dir=tmp_path),
    }
    for name, call in work.items():
        with holder(tmp_path) as process, pytest.raises(UserError, match=f"in use by process {process.pid}"):
            call()
        (tmp_path / ".lock").unlink()
        assert list(tmp_path.iterdir()) == [], name
    with pytest.raises(UserError, match="no run directory"):
        write_report(tmp_path / "none")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo])
def test_a_lock_file_that_is_none_is_named(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / ".lock")
    with pytest.raises(UserError, match=r"\.lock is no file"), run_lock(tmp_path):
        pass


def test_a_full_disk_that_holds_no_name_gives_the_lock_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*given: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.os, "pwrite", full)
    with run_lock(tmp_path):
        assert module._take(tmp_path / ".lock", shared=True) is None
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_is_moved_is_found_and_one_that_is_removed_is_said(tmp_path: Path) -> None:
    run, moved = tmp_path / "run", tmp_path / "below" / "moved"
    with run_lock(run):
        assert place_of(run) == run
        moved.parent.mkdir()
        run.rename(moved)
        assert place_of(run) == moved
        run.mkdir()  # another one of its name
        assert place_of(run) == moved
        shutil.rmtree(tmp_path / "below")
        run.rmdir()
        with pytest.raises(Stopped, match="was moved or removed"):
            place_of(run)


def test_what_begins_in_a_run_that_was_moved_meanwhile_makes_no_second_one(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with run_lock(run):
        run.rename(tmp_path / "moved")
        with pytest.raises(Stopped, match=r"was moved to .*moved meanwhile"), run_lock(run):
            pytest.fail("it went on at the old place")
        assert not run.exists()


def test_a_lock_file_that_is_removed_is_taken_anew_unless_another_has_it(tmp_path: Path) -> None:
    with run_lock(tmp_path):
        (tmp_path / ".lock").unlink()
        assert place_of(tmp_path) == tmp_path and (tmp_path / ".lock").exists()
        with pytest.raises(AssertionError), holder(tmp_path):
            pass
        (tmp_path / ".lock").unlink()
        with holder(tmp_path) as process, pytest.raises(Stopped, match=rf"process {process.pid} .*was removed"):
            place_of(tmp_path)
        (tmp_path / ".lock").unlink()
