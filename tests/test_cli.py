"""The command line: quick help, one line for a user's mistake, one JSON line of results, a run keeps its settings."""

from __future__ import annotations

import errno
import json
import math
import os
import resource
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

from fastdreamer import cli, commands
from fastdreamer.commands.command import resolve
from fastdreamer.config import Config, load_config
from fastdreamer.errors import UserError
from fastdreamer.run.kept_config import check_run, kept_configuration
from fastdreamer.settings import dump_config
from fastdreamer.system.output import show

REPORT = ["report", "--run-dir", "R"]


def fastdreamer(*words: str, code: str = "from fastdreamer.cli import run; run()") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def seconds_of_children() -> float:
    """Processor time of the processes that were started and have ended; others at work do not lengthen it."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_help_is_quick_and_loads_nothing_heavy():
    code = "import sys; from fastdreamer.cli import main\ntry: main()\nfinally: print(*sys.modules, file=sys.stderr)"
    seconds = []
    for _ in range(3):
        start = seconds_of_children()
        result = fastdreamer("--help", code=code)
        seconds.append(seconds_of_children() - start)
        assert result.returncode == 0
    loaded = set(result.stderr.split())
    assert not loaded & {"torch", "numpy", "yaml", "rich", "av", "diffusers", "crafter", "fastdreamer.config"}
    assert min(seconds) < 0.5
    assert all(command in result.stdout for command in commands.COMMANDS)


@pytest.mark.parametrize("command", sorted(commands.COMMANDS))
def test_every_command_explains_itself(command, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main([command, "--help"])
    out = capsys.readouterr().out
    assert stop.value.code == 0 and "--config" in out and "--json" in out and "section.key=value" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "required: COMMAND"),
        ("frob", "invalid choice: 'frob'"),
        ("train", "required: --run-dir, --phase"),
        ("train --phase one --run-dir R", "invalid int value: 'one'"),
        ("train --phase 4 --run-dir R --config debug", "phase is 4; there are phases 1 (world model)"),
        ("train --phase 1 --run-dir R", "R is not a run directory (no config.yaml): give --config"),
        ("train --phase 1 --run-dir R --config debg", "unknown configuration 'debg'; did you mean debug?"),
        ("train --phase 1 --run-dir R --config R/none.yaml", "R/none.yaml does not exist"),
        ("train --phase 1 --run-dir R --config debug phase1.stps=3", "unknown setting phase1.stps"),
        ("train --phase 1 --run-dir R --config debug --phse1.steps=3", "unexpected argument '--phse1.steps=3'"),
        ("diagnose --run-dir R --config debug --tries 3", "--tries is for --audit: give both"),
        ("diagnose --run-dir R --config debug --audit --states 1", "--states is 1; an audit needs at least 2"),
        ("train --phase 1 --run-dir R --config debug extra", "unexpected argument 'extra'"),
        ("train --phase 1 --run-dir R --config debug", "R/store"),
        ("train --phase 2 --run-dir R --config debug", "phase 1"),
        ("eval --run-dir R", "R is not a run directory"),
        ("report --run-dir R", "R is no run directory"),
        ("inspect R", "R"),
        ("encode --config debug --recordings R", "no store named: give --store"),
        ("encode --config debug --recordings R --store S", "R"),
        ("fit-tokenizer --config debug --recordings R --out S", "R"),
        ("record --policy wizard --out R", "record.policy is 'wizard'; it must be one of expert, random, human"),
        ("record --episodes 0 --out R", "record.episodes is 0; it must be at least 1"),
        ("record --env pong --out R", "data.env is 'pong'"),
    ],
)
def test_a_mistake_is_one_line_and_exit_2_and_writes_nothing(words, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    try:
        status = cli.main(words.split())
    except SystemExit as stop:
        status = stop.code
    err = capsys.readouterr().err
    assert status == 2
    assert err.startswith("fastdreamer: error: ") and err.count("\n") == 1 and message in err
    assert list(tmp_path.iterdir()) == []


def test_settings_may_stand_anywhere(stub, capsys):
    seen = []
    stub("train", lambda arguments: seen.append(load_config("debug", arguments.overrides)) or {})
    assert cli.main(["train", "seed=3", "--phase", "1", "data.env=crafter", "--run-dir", "R", "phase1.steps=5"]) == 0
    assert (seen[0].seed, seen[0].phase1.steps) == (3, 5)


def test_json_ends_the_output_with_strict_numbers(stub, capsys):
    result = {"a": math.nan, "b": np.float32(0.5), "c": Path("x"), "d": [np.int64(3), math.inf], 5: np.arange(2)}
    stub("report", lambda arguments: show(result))
    assert cli.main([*REPORT, "--json"]) == 0
    line = capsys.readouterr().out.splitlines()[-1]
    expected = {"a": None, "b": 0.5, "c": "x", "d": [3, None], "5": [0, 1]}
    assert json.loads(line, parse_constant=pytest.fail) == expected
    assert cli.main(REPORT) == 0
    assert not capsys.readouterr().out.splitlines()[-1].startswith("{")


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (UserError("line one\nline two"), 2, "fastdreamer: error: line one line two\n"),
        (OSError(errno.ENOSPC, "No space left on device", "f"), 2, "fastdreamer: error: f: No space left on device"),
        (PermissionError(errno.EACCES, "Permission denied", "f"), 2, "fastdreamer: error: f: Permission denied"),
        (KeyboardInterrupt(), 130, "fastdreamer: interrupted\n"),
    ],
)
def test_exit_codes(error, status, words, stub, capsys):
    def fail(arguments):
        raise error

    stub("report", fail)
    assert cli.main(REPORT) == status
    err = capsys.readouterr().err
    assert err.startswith(words) and err.count("\n") == 1


@pytest.mark.parametrize("error", [RuntimeError("ours"), ValueError("ours"), OSError(errno.EBADF, "ours")])
@pytest.mark.parametrize("has_run", [True, False])
def test_our_own_bugs_are_one_line_and_a_report(error, has_run, stub, capsys, tmp_path, monkeypatch):
    def fail(arguments):
        raise error

    stub("report", fail)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    run = tmp_path / "my 'run'"
    if has_run:
        run.mkdir()
    assert cli.main(["report", "--run-dir", str(run)]) == 1
    (report,) = (run if has_run else tmp_path).glob("error-*.txt")
    err = capsys.readouterr().err
    assert err.startswith(f"fastdreamer: error: unexpected {type(error).__name__}: ") and err.count("\n") == 1
    assert "ours" in err and str(report) in err and "nothing that was finished is lost" in err
    assert shlex.split(err.rpartition(": ")[2]) == ["fastdreamer", "report", "--run-dir", str(run)]
    text = report.read_text()
    assert "Traceback" in text and "in fail" in text and "ours" in text
    assert report.stat().st_mode & 0o077 == 0


def test_a_bug_in_training_says_how_to_resume_and_hides_the_token(stub, capsys, tmp_path):
    def fail(arguments):
        raise RuntimeError("secret stays out")

    stub("train", fail)
    stub("fetch-weights", fail)
    (tmp_path / "checkpoints" / "phase2" / "step-00000004").mkdir(parents=True)
    assert cli.main(["train", "--phase", "2", "--run-dir", str(tmp_path), "seed=3"]) == 1
    assert capsys.readouterr().err.endswith(f"fastdreamer train --phase 2 --run-dir {tmp_path} seed=3 --resume\n")
    assert cli.main(["fetch-weights", "--token", "hf_abc", "--out", str(tmp_path)]) == 1
    assert cli.main(["fetch-weights", "--token=hf_abc", "--out", str(tmp_path)]) == 1
    shown = capsys.readouterr().err + "".join(path.read_text() for path in tmp_path.glob("error-*"))
    assert "hf_abc" not in shown and f"fetch-weights --out {tmp_path}" in shown


@pytest.mark.parametrize("number", [errno.EIO, errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR, errno.EISDIR])
def test_trouble_of_the_disk_names_the_way_out_of_that_trouble(number, stub, capsys):
    def fail(arguments):
        raise OSError(number, os.strerror(number), "f")

    stub("report", fail)
    assert cli.main(REPORT) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"fastdreamer: error: f: {os.strerror(number)}; ") and err.count("\n") == 1
    assert "free space" not in err


def test_a_file_without_permission_is_not_answered_with_free_space(stub, capsys):
    def fail(arguments):
        raise PermissionError(errno.EACCES, "Permission denied", "f")

    stub("report", fail)
    assert cli.main(REPORT) == 2
    err = capsys.readouterr().err
    assert "let this account read" in err and "free space" not in err


def test_memory_that_runs_out_is_the_users_to_mend(stub, capsys):
    def fail(arguments):
        raise MemoryError

    stub("report", fail)
    assert cli.main(REPORT) == 2
    err = capsys.readouterr().err
    assert "out of memory" in err and err.endswith("fastdreamer plan --run-dir R\n")


def test_a_run_keeps_its_configuration(tmp_path):
    config = load_config("debug")
    dump_config(config, tmp_path / "config.yaml")
    (tmp_path / "checkpoints" / "phase1" / "step-00000003").mkdir(parents=True)
    free = ["evaluation.episodes=9", "record.seed=4", "phase2.steps=7", "phase1.log_every=3", "device=cpu"]
    check_run(tmp_path, load_config("debug", free))
    for fixed in ("tokenizer.pool=4", "dynamics.layers=8", "seed=1", "phase1.learning_rate=1", "data.store=/x"):
        with pytest.raises(UserError, match=f"was made with {fixed.split('=')[0]}=.*another --run-dir"):
            check_run(tmp_path, load_config("debug", [fixed]))


def test_the_configuration_is_saved_with_the_run_and_taken_back_if_refused(tmp_path):
    run, config = tmp_path / "run", load_config("debug")
    with pytest.raises(UserError), kept_configuration(run, config):
        raise UserError("no store")
    assert not run.exists()
    with kept_configuration(run, config):
        assert load_config(run / "config.yaml") == config
    longer = load_config("debug", ["phase2.steps=70"])
    before = (run / "config.yaml").read_bytes()
    with pytest.raises(UserError), kept_configuration(run, longer):
        raise UserError("no phase 1")
    assert (run / "config.yaml").read_bytes() == before
    with pytest.raises(SystemExit), kept_configuration(run, longer):
        raise SystemExit(143)
    assert load_config(run / "config.yaml") == longer


def test_the_runs_own_configuration_is_the_default(tmp_path):
    config = load_config("debug", ["seed=5"])
    dump_config(config, tmp_path / "config.yaml")
    arguments = cli.build_parser().parse_args(["eval", "--run-dir", str(tmp_path)])
    arguments.overrides = ["evaluation.episodes=7"]
    resolved = resolve(arguments)
    assert (resolved.seed, resolved.evaluation.episodes) == (5, 7)
    assert isinstance(resolved, Config)
