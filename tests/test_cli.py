"""The command line: quick help, one line for a user's mistake, one JSON line of results, a run keeps its settings."""

from __future__ import annotations

import errno
import json
import math
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest

from fastdreamer import cli, commands
from fastdreamer.commands.configuration import resolve
from fastdreamer.config import Config, load_config
from fastdreamer.errors import UserError
from fastdreamer.run.kept_config import check_run, kept_configuration
from fastdreamer.settings import dump_config
from fastdreamer.system.output import show

REPORT = ["report", "--run-dir", "R"]


def fastdreamer(*words: str, code: str = "from fastdreamer.cli import run; run()") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture
def stub(monkeypatch):
    """Put a function in a command's place."""

    def put(command: str, work):
        monkeypatch.setitem(commands.COMMANDS, command, work)

    return put


def test_help_is_quick_and_loads_nothing_heavy():
    code = "import sys; from fastdreamer.cli import main\ntry: main()\nfinally: print(*sys.modules, file=sys.stderr)"
    seconds = []
    for _ in range(3):
        start = time.monotonic()
        result = fastdreamer("--help", code=code)
        seconds.append(time.monotonic() - start)
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
        ("record --policy wizard --out R", "record.policy is 'wizard'; it must be one of expert, random"),
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


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_a_closed_stream_is_no_traceback(closed, tmp_path):
    code = 'from fastdreamer import cli, commands; commands.COMMANDS["report"] = lambda a: print("x") or {}; cli.run()'
    shell = f"{shlex.join([sys.executable, '-c', code, *REPORT])} {closed}"
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


EVIL = "a\x1b[2Jb\x9b31mc\u202ed\udce9"


def test_names_cannot_command_the_terminal(stub, capsys):
    def work(arguments):
        print(f"printed {EVIL}")
        print(f"noted {EVIL}", file=sys.stderr)
        return show({f"key {EVIL}\nfaked": f"value {EVIL}\nfaked"})

    stub("report", work)
    assert cli.main(REPORT) == 0
    found = capsys.readouterr()
    for text in (found.out, found.err):
        assert text.replace("\n", "").isprintable()
        assert r"a\x1b[2Jb\x9b31mc\u202ed\xe9" in text
    assert len(found.out.splitlines()) == 2


def test_an_error_with_evil_names_is_one_harmless_line(stub, capsys):
    def fail(arguments):
        raise UserError(f"{EVIL}\r\nfastdreamer: all is well")

    stub("report", fail)
    assert cli.main(REPORT) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and err[:-1].isprintable()


def test_a_terminal_without_the_letters_is_no_traceback():
    code = """
from fastdreamer import cli, commands
commands.COMMANDS["report"] = lambda arguments: print("caf\\u00e9 \\udce9") or {}
cli.run()
"""
    command = [sys.executable, "-c", code, *REPORT]
    environment = os.environ | {"PYTHONIOENCODING": "ascii:strict", "PYTHONUTF8": "0"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "caf\\xe9 \\xe9\n", "")


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_stopping_cleans_up_and_shows_no_traceback(number, status, tmp_path):
    code = """
import sys, time; from pathlib import Path
from fastdreamer import cli, commands; from fastdreamer.system.files import atomic_directory
def work(arguments):
    with atomic_directory(Path(sys.argv[-1]) / "final"):
        print("ready", flush=True); time.sleep(60)
commands.COMMANDS["report"] = work
cli.run()
"""
    command = [sys.executable, "-c", code, "report", "--run-dir", str(tmp_path)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.readline()
        process.send_signal(number)
        assert process.wait(10) == status
        assert "Traceback" not in process.stderr.read()
    assert list(tmp_path.iterdir()) == []


def test_a_reader_that_leaves_early_is_no_error():
    code = """
from fastdreamer import cli, commands
commands.COMMANDS["report"] = lambda arguments: [print("x" * 1000, flush=True) for _ in range(1000)] and {}
cli.run()
"""
    shell = f"{sys.executable} -c '{code}' report --run-dir R | head -1"
    result = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, check=True)
    assert result.stderr == ""


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


@pytest.mark.parametrize(
    "words",
    [
        "train --phase 1 --config debug --run-dir ''",
        "record --config debug --out ''",
        "encode --config debug --recordings '' --store s",
        "encode --config debug --recordings r --store=",
        "inspect ''",
        "fit-tokenizer --config debug --recordings r --out ' '",
        "plan --config ''",
        "plan --config debug --card ''",
        "plan --config debug --budget=",
        "build-engines --config debug --target ''",
        "fetch-weights --out o --revision ''",
        "profile --config debug --phase 1 --tool ''",
    ],
)
def test_a_variable_that_is_not_set_is_neither_the_current_folder_nor_the_default(words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        cli.main(shlex.split(words))
    err = capsys.readouterr().err
    assert stop.value.code == 2 and err.count("\n") == 1 and "nothing is given (is a variable of the shell" in err
    assert list(tmp_path.iterdir()) == []


def test_a_current_folder_that_was_removed_is_named(stub, capsys, tmp_path, monkeypatch):
    stub("report", lambda arguments: {"there": Path("x").absolute()})
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert cli.main(REPORT) == 2
    err = capsys.readouterr().err
    assert (
        err
        == "fastdreamer: error: the current folder is not there any more: go to one that is, and start again there\n"
    )


@pytest.mark.parametrize("where", ["loop", "loop/run"])
@pytest.mark.parametrize("command", ["train --phase 1", "encode --recordings r", "demo"])
def test_a_run_directory_whose_links_lead_in_a_circle_is_one_line(where, command, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("loop").symlink_to("back")
    Path("back").symlink_to("loop")
    assert cli.main([*command.split(), "--config", "debug", "--run-dir", where]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and f"cannot write {where}" in err and "permissions" not in err


@pytest.mark.parametrize("flush", [True, False])
def test_a_full_disk_behind_the_output_is_one_line(flush):
    code = f"""
from fastdreamer import cli, commands
commands.COMMANDS["report"] = lambda arguments: print("x", flush={flush}) or {{}}
cli.run()
"""
    shell = f"{shlex.join([sys.executable, '-c', code, *REPORT])} > /dev/full"
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, check=False)
    said = "standard output: No space left on device; free space, or choose another folder"
    assert (done.returncode, done.stderr) == (2, f"fastdreamer: error: {said}\n")


def test_a_short_output_that_nobody_reads_is_no_error():
    code = """
import os, time
from fastdreamer import cli, commands
commands.COMMANDS["report"] = lambda arguments: time.sleep(0.3) or print("x") or {}
cli.run()
"""
    shell = f"{shlex.join([sys.executable, '-c', code, *REPORT])} | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "")


def test_an_error_that_cannot_be_printed_keeps_its_code():
    shell = f"{shlex.join([sys.executable, '-m', 'fastdreamer', *REPORT])} 2> /dev/full"
    assert subprocess.run(["bash", "-c", shell], capture_output=True, check=False).returncode == 2


def test_a_pipe_of_ours_that_breaks_is_not_taken_for_a_reader_who_left(stub, capsys, tmp_path, monkeypatch):
    def fail(arguments):
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    stub("report", fail)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert cli.main(REPORT) == 1
    assert "unexpected BrokenPipeError" in capsys.readouterr().err


@pytest.mark.parametrize("words", ["inspect", "encode --config debug --store s --recordings"])
@pytest.mark.parametrize("where", ["file", "file/x", "loop"])
def test_nothing_is_recorded_into_what_cannot_be_a_folder(words, where, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    Path("loop").symlink_to("loop")
    assert cli.main([*words.split(), where]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "is no folder): name one of recordings" in err and "fastdreamer record" not in err


@pytest.mark.parametrize("weights", ["file", "''", "file.pt"])
def test_weights_are_not_fetched_into_what_cannot_be_a_folder(weights, tmp_path, monkeypatch):
    from fastdreamer.tokenizer.cosmos import weights_folder

    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    with pytest.raises(UserError, match="; mend the path, or name a folder") as caught:
        weights_folder(load_config("debug", [f"tokenizer.weights={weights}"]).tokenizer)
    assert "fetch-weights" not in str(caught.value)


def test_a_record_that_the_system_does_not_give_is_not_fetched_again(capsys, tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    assert cli.main(["fetch-weights", "--out", str(tmp_path / "loop")]) == 2
    err = capsys.readouterr().err
    assert "cannot be read (Too many levels of symbolic links)" in err and "--replace" not in err


def test_a_token_that_was_copied_badly_is_one_line_without_it(capsys, tmp_path):
    assert cli.main(["fetch-weights", "--out", str(tmp_path), "--token", "hf_caf\u00e9"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "the token of the hub holds what no token has" in err and "hf_caf" not in err


def test_a_profiled_run_whose_name_begins_like_an_option_is_read_back(stub):
    from fastdreamer.tools.profiling.profile import Request

    words = ["profile", "--config", "debug", "--phase", "1", "--tool", "nsys", "--print-command", "--run-dir=-x y"]
    arguments = cli.build_parser().parse_args(words)
    arguments.overrides = ["seed=3"]
    again = ("profile", "--phase", "1", *Request.of(arguments).again)
    parsed, overrides = cli.build_parser().parse_known_args(again)
    assert (parsed.run_dir, parsed.config, overrides) == (Path("-x y"), "debug", ["seed=3"])
