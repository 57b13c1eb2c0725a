"""The command line where its surroundings fail: closed streams, evil names, signals, folders that are gone."""

from __future__ import annotations

import errno
import os
import shlex
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from test_cli import REPORT

from fastdreamer import cli
from fastdreamer.config import load_config
from fastdreamer.errors import UserError
from fastdreamer.system.output import show


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
        assert process.wait(60) == status
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


def test_a_request_to_stop_that_python_ignores_where_it_lands_is_a_stop():
    """What a handler raises inside a finaliser is printed, and the work goes on."""
    code = """
import os, signal
from fastdreamer import cli, commands
class Last:
    def __del__(self): os.kill(os.getpid(), signal.SIGTERM); [None for _ in range(1000)]
def work(arguments):
    Last()
    return {}
commands.COMMANDS["report"] = work
cli.run()
"""
    command = [sys.executable, "-c", code, *REPORT]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 128 + signal.SIGTERM and "fastdreamer: error" not in result.stderr


@pytest.mark.parametrize("error", ["ValueError('no shape')", "UserError('it is damaged')"])
def test_a_request_to_stop_that_a_library_made_an_error_of_is_a_stop(error):
    """safetensors and torch turn what a handler raises inside them into errors of their own."""
    code = f"""
import os, signal
from fastdreamer import cli, commands
from fastdreamer.errors import UserError
def work(arguments):
    try: os.kill(os.getpid(), signal.SIGTERM)
    except SystemExit: raise {error} from None
commands.COMMANDS["report"] = work
cli.run()
"""
    command = [sys.executable, "-c", code, *REPORT]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 128 + signal.SIGTERM and "error" not in result.stderr
