"""`fastdreamer doctor` as a user runs it: whole, quick, strict, and upright where libraries are broken."""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fastdreamer.tools.doctor.ready import NEEDS
from fastdreamer.tools.doctor.requirements import PACKAGE, declaration

OTHERS = (
    "Python", "fastdreamer", "configuration", "GPU", "cuDNN", "conv3d in bf16", "C++ compiler", "C compiler", "nsys",
    "Minecraft", "embedded tokenizer", "tokenizer weights", "engines", "disk for runs", "memory", "cores", "PYTHONPATH",
    "standard library",    "TRITON_INTERPRET",
)  # fmt: skip
ALONE = f"""
import sys
from pathlib import Path
own = Path({str(PACKAGE)!r})
def is_other(entry):  # a development install of another checkout
    place = Path(entry) / "fastdreamer"
    return (place / "__init__.py").is_file() and place.resolve() != own
sys.path[:] = [entry for entry in sys.path if not is_other(entry)]
from fastdreamer.cli import main
from fastdreamer.tools.doctor import ask
ask.TIMEOUT_S = 300.0  # the machine may be shared
code = main(["doctor", *sys.argv[1:]])
print(sorted({{"torch", "numpy", "diffusers", "av"}} & set(sys.modules)), file=sys.stderr)
raise SystemExit(code)
"""


def doctor(*words: str, cwd: Path, code: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    start = ["-c", code, *words] if code else ["-m", "fastdreamer", "doctor", *words]
    env = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"} | environment
    return subprocess.run([sys.executable, *start], cwd=cwd, env=env, capture_output=True, text=True, check=False)


def processor_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def found_by(done: subprocess.CompletedProcess[str]) -> tuple[dict[str, Any], dict[str, dict[str, str]]]:
    assert "Traceback" not in done.stderr, done.stderr
    found = json.loads(done.stdout.splitlines()[-1], parse_constant=pytest.fail)
    return found, {part["part"]: part for part in found["parts"]}


def test_a_sound_machine(tmp_path: Path) -> None:
    """One run, because it imports every library there is."""
    engines = tmp_path / "engines"
    before = processor_seconds()
    done = doctor("--json", f"engines.directory={engines}", cwd=tmp_path, code=ALONE)
    seconds = processor_seconds() - before
    found, parts = found_by(done)
    assert (found["refused"], done.returncode) == ({}, 0)
    assert list(parts) and set(parts) == {*OTHERS, *(one.name for one in declaration().libraries)}
    assert len(parts) == len(found["parts"])  # none twice
    for part in found["parts"]:
        assert list(part) == ["part", "found", "verdict", "mend"] and part["verdict"] in ("ok", "missing")
        assert part["mend"] or part["verdict"] == "ok" or part["part"] == "GPU"
    assert [row["command"] for row in found["commands"]] == list(NEEDS)
    assert found["demo"] and all(set(row) == {"command", "ready", "lacks", "mend", "note"} for row in found["commands"])
    assert "checks the probe" in parts["conv3d in bf16"]["found"] or parts["GPU"]["verdict"] == "ok"
    assert done.stderr.strip() == "[]"  # nothing heavy in the command's own process
    paths = re.findall(r"(?<![\w.'=])/[\w./+-]+", done.stdout[: done.stdout.rindex('{"configuration"')])
    assert len(paths) == len(set(paths)), paths
    assert seconds < 15  # 6.5 on two cores; of the processor, because the machine may be shared


def test_files_that_hide_libraries_are_wrong_and_nothing_of_them_runs(tmp_path: Path) -> None:
    for name in ("torch.py", "yaml.py"):
        (tmp_path / name).write_text("raise RuntimeError('a file of mine')\n")
    done = doctor("--json", cwd=tmp_path)
    found, parts = found_by(done)
    assert done.returncode == 1 and not found["demo"] and {"torch", "pyyaml", "configuration"} <= set(found["refused"])
    assert parts["torch"]["found"].startswith(f"{tmp_path / 'torch.py'} is taken, 2.")
    assert parts["torch"]["mend"] == "rename it, or start elsewhere"
    assert parts["diffusers"]["found"].endswith("needs torch") and parts["conv3d in bf16"]["verdict"] == "missing"
    demo = next(row for row in found["commands"] if row["command"] == "demo")
    assert "torch" in demo["lacks"] and demo["mend"] == ["rename it, or start elsewhere"]
    assert next(row for row in found["commands"] if row["command"] == "report")["lacks"] == ["pyyaml", "configuration"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--config debg", "unknown configuration 'debg'; did you mean debug?"),
        ("--run-dir R", "R is not a run directory (no config.yaml): give --config"),
        ("phase1.stps=3", "unknown setting phase1.stps"),
        ("--frob", "unexpected argument '--frob'"),
    ],
)
def test_a_mistake_is_one_line_and_exit_2(words: str, message: str, tmp_path: Path, capsys, monkeypatch) -> None:
    from fastdreamer import cli

    monkeypatch.chdir(tmp_path)
    try:
        status = cli.main(["doctor", *words.split()])
    except SystemExit as stop:
        status = int(str(stop.code))
    err = capsys.readouterr().err
    assert status == 2 and err.count("\n") == 1 and message in err and list(tmp_path.iterdir()) == []
