"""Commands in messages: quoted for a shell, whole, and made in one place."""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from fastdreamer.cli import build_parser
from fastdreamer.commands import COMMANDS
from fastdreamer.system import advice

ROOT = Path(__file__).parents[2]
NAMES = [
    "plain", "my data/it's", "-rf", "a\nb", "tab\there", "caf\u00e9", "\x1b[2J", "$(id)", "`id`", "a;b", "\udce9.mp4",
    "", "~",
]  # fmt: skip
FOLDERS = ("fastdreamer", "kernels/fastdreamer_kernels", "engines/fastdreamer_engines")
# What a shell would run, in a text that is not made by `advice`.
COMMAND = re.compile(
    rf"\bfastdreamer ({'|'.join(sorted(COMMANDS))})\b|\bpip (install|uninstall)\b|\brm -|\bmv \S|\bchmod \d"
    r"|\bsudo \w|\bpython -m \w|\bapt(-get)? install|\bulimit -|\bhf auth|\bffmpeg -"
)
DESTROYS = re.compile(r"\brm\b|\bdelete (it|the|that|\{)|\bremove (it|the|that|\{)|\{[^}]*\}[^.;:]* by hand")


@pytest.mark.parametrize("name", NAMES)
def test_a_shell_reads_every_name_back_as_it_is(name):
    line = advice.shell("printf", "%s", name)
    assert line.isprintable()
    done = subprocess.run(["bash", "-c", line], capture_output=True, check=True)
    assert done.stdout == name.encode("utf-8", "surrogateescape")


@pytest.mark.parametrize("name", [name for name in NAMES if name.isprintable() and name])
def test_a_command_of_ours_is_read_back_by_our_parser(name):
    line = advice.plain("encode", "seed=3", recordings=Path(name), store=name, replace=True, config=None)
    parsed, overrides = build_parser().parse_known_args(shlex.split(line)[1:])
    wanted = str(Path(name).expanduser())
    assert (str(parsed.recordings), str(parsed.store), parsed.replace) == (wanted, wanted, True)
    assert overrides == ["seed=3"] and parsed.config is None
    (folder,) = shlex.split(advice.plain("inspect", Path(name)))[2:]
    assert Path(folder) == Path(name)


def test_what_the_user_named_is_named_again():
    flags = {"config": "debug", "run_dir": Path("my run"), "recordings": Path("r"), "store": None, "phase": 1}
    with advice.running(advice.Call(("train",), flags, ("seed=3", "phase1.steps=4"))):
        found = advice.command("encode", "phase1.steps=5", replace=True)
        assert advice.command("train", phase=2, run_dir="other").endswith(
            "--run-dir other --config debug --phase 2 seed=3 phase1.steps=4"
        )
        assert advice.command("fetch-weights") == "fastdreamer fetch-weights --config debug seed=3 phase1.steps=4"
    words = "fastdreamer encode --run-dir 'my run' --recordings r --config debug --replace seed=3 phase1.steps=4"
    assert found == f"{words} phase1.steps=5"
    assert advice.command("report") == "fastdreamer report"


def test_commands_repeat_what_their_parser_takes():
    parser = build_parser()
    for flag, commands in advice.REPEATED.items():
        for name in COMMANDS:
            takes = f"--{flag.replace('_', '-')} " in _help(parser, name)
            assert takes == (name in commands), (flag, name)


def _help(parser, name: str) -> str:
    import contextlib
    import io

    out = io.StringIO()
    with contextlib.redirect_stdout(out), pytest.raises(SystemExit):
        parser.parse_args([name, "--help"])
    return out.getvalue()


def test_the_recordings_of_the_running_command_are_inspected():
    with advice.running(advice.Call((), {"recordings": Path("my recordings"), "config": "debug"})):
        assert advice.command("inspect") == "fastdreamer inspect 'my recordings' --config debug"
        assert advice.command("inspect", "other") == "fastdreamer inspect other --config debug"


def texts() -> list[tuple[str, str]]:
    """(place, text) of every string in our packages but docstrings; the parts of an f-string are joined by {}."""
    found = []
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            bodies = (node.body for node in ast.walk(tree) if hasattr(node, "body") and isinstance(node.body, list))
            said = {id(line.value) for body in bodies for line in body if isinstance(line, ast.Expr)}
            parts = set()
            for node in ast.walk(tree):
                if isinstance(node, ast.JoinedStr):
                    parts |= {id(part) for part in ast.walk(node)} - {id(node)}
                    text = "".join(str(part.value) if isinstance(part, ast.Constant) else "{x}" for part in node.values)
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    text = node.value
                else:
                    continue
                if id(node) not in said and id(node) not in parts:
                    found.append((f"{path.relative_to(ROOT)}:{node.lineno}", text))
    return found


def test_no_message_builds_a_command_by_itself():
    assert len(texts()) > 3000
    assert [f"{place}: {text}" for place, text in texts() if COMMAND.search(text)] == []


def test_no_message_advises_to_remove_anything():
    assert [f"{place}: {text}" for place, text in texts() if DESTROYS.search(text)] == []


def test_a_secret_is_left_out_and_a_flag_without_a_value_takes_nothing_along():
    with advice.running(advice.Call(("fetch-weights", "--token", "hf_x", "--out", "w"))):
        assert advice.again() == "fastdreamer fetch-weights --out w"
    with advice.running(advice.Call(("play", "--token", "--run-dir", "r"))):
        assert advice.again() == "fastdreamer play --run-dir r"
    with advice.running(advice.Call(("play", "--host", "0.0.0.0"))):
        assert advice.again("--token") == "fastdreamer play --host 0.0.0.0 --token"
