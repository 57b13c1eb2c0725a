"""The machine's rows: what is there, what is not, and which commands that leaves."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from fastdreamer import commands
from fastdreamer.config import load_config
from fastdreamer.system import cores
from fastdreamer.tools.doctor import machine
from fastdreamer.tools.doctor.ask import Component
from fastdreamer.tools.doctor.ready import NEEDS, run_parts
from fastdreamer.tools.doctor.ready import commands as ready


@pytest.fixture
def bare(monkeypatch, tmp_path: Path) -> Path:
    """An empty folder as PATH, and no compiler named."""
    monkeypatch.setenv("PATH", str(tmp_path))
    for name in ("CXX", "CC"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def program(folder: Path, name: str, body: str = "exit 0") -> Path:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


def test_without_a_compiler_what_compiles_is_not_ready(bare: Path) -> None:
    part = machine.compiler_part("C++")
    assert (
        part == Component("C++ compiler", "none", "missing", "install g++ or name one with CXX; or use compile=off")
        and machine.compiler_part("C").mend == "install gcc or name one with CC"
    )
    parts = {"C++ compiler": part, "Minecraft": Component("Minecraft", "")}
    for setting, lacking in (("auto", {"build-engines"}), ("on", {"build-engines", "train", "demo", "profile"})):
        rows = ready(load_config("debug", [f"compile={setting}"]), parts, has_gpu=False)
        assert {row.command for row in rows if row.lacks} == lacking
        assert all(row.mends == (part.mend,) for row in rows if row.lacks)


def test_a_compiler_is_found_by_the_variable_and_on_the_path(bare: Path, monkeypatch) -> None:
    monkeypatch.setenv("CXX", "mine -O3")
    mine = program(bare, "mine")
    assert machine.compiler_part("C++") == Component("C++ compiler", str(mine))
    monkeypatch.delenv("CXX")
    other = program(bare, "clang++")
    assert machine.compiler_part("C++").found == str(other)


def test_the_driver_tells_its_cards(bare: Path) -> None:
    assert machine.driver_gpus() == ()
    program(bare, "nvidia-smi", "echo 'NVIDIA GeForce RTX 3060, 12288, 580.65.06, 8.6'; echo 'garbage'")
    (gpu,) = machine.driver_gpus()
    assert str(gpu) == "NVIDIA GeForce RTX 3060, 12.0 GiB, compute capability 8.6, driver 580.65.06"
    program(bare, "nvidia-smi", "echo 'NVIDIA-SMI has failed, 1, 2, 3'; exit 9")
    assert machine.driver_gpus() == ()


def test_the_limit_of_a_container_counts(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr(cores, "CGROUPS", tmp_path)
    assert machine.memory_part().verdict == "ok" and "cgroup" not in machine.memory_part().found
    (tmp_path / "memory.max").write_text("max\n")
    assert "cgroup" not in machine.memory_part().found
    (tmp_path / "memory.max").write_text(f"{2**30}\n")
    part = machine.memory_part()
    assert part.verdict == "wrong" and "1.0 GiB may be used here" in part.found and "2 GiB" in part.mend
    (tmp_path / "cpu.max").write_text("150000 100000\n")
    assert "time of 1.5 (cgroup)" in machine.cores_part().found


def test_the_disk_is_that_of_the_nearest_folder_above(monkeypatch, tmp_path: Path) -> None:
    part = machine.disk_part(tmp_path / "not" / "yet")
    assert part.verdict == "ok" and part.found.endswith(f"free in {tmp_path}")
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda folder: SimpleNamespace(free=5 * 2**20, total=2**40))
    assert machine.disk_part(tmp_path).verdict == "wrong" and machine.disk_part(tmp_path).found.startswith("0.0 of")
    (tmp_path / "file").write_text("")
    assert "cannot be written to" in machine.disk_part(tmp_path / "file" / "run").found


def test_what_is_odd_about_pythonpath_is_said_once(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.delenv("PYTHONPATH", raising=False)
    assert machine.python_path_part() == Component("PYTHONPATH", "not set")
    gone = str(tmp_path / "gone")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), "", ".", gone, gone]))
    found = machine.python_path_part().found
    assert "5 entries" in found and "an empty one" in found and "relative ones" in found
    assert found.count(gone) == 1 and f"{gone} does not exist" in found


def test_a_file_in_front_of_python_itself_is_wrong(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "path", [str(tmp_path), os.path.dirname(os.__file__)])
    (tmp_path / "timeit").mkdir()  # no package, so it hides nothing
    (tmp_path / "mine.py").write_text("")
    assert machine.standard_library_part().verdict == "ok"
    (tmp_path / "timeit.py").write_text("")
    part = machine.standard_library_part()
    assert part.verdict == "wrong" and part.found == f"hidden by {tmp_path / 'timeit.py'}"
    monkeypatch.setattr(sys, "path", sys.path[::-1])
    assert machine.standard_library_part().verdict == "ok"


def test_tritons_interpreter_is_wrong(monkeypatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    assert machine.interpreter_part().verdict == "ok"
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert machine.interpreter_part().verdict == "wrong" and machine.interpreter_part().mend == "unset TRITON_INTERPRET"


def test_another_python_is_wrong() -> None:
    assert machine.python_part(">=3.11").verdict == "ok"
    assert machine.python_part(">=4").mend == "make an environment with Python >=4"


def test_every_row_is_a_command() -> None:
    assert {name.partition(" ")[0] for name in NEEDS} <= set(commands.COMMANDS)
    asked = {"demo", "record", "encode", "build-engines", "train", "plan", "profile", "eval", "report"}
    assert asked <= set(NEEDS)


def test_what_a_run_lacks_is_named_with_the_command_that_makes_it(tmp_path: Path) -> None:
    config, run = load_config("debug"), tmp_path / "run"
    parts = {part.name: part for part in run_parts(config, run)}
    assert [part.verdict for part in parts.values()] == ["missing"] * 3
    assert parts["recordings"].mend == f"fastdreamer record --out {run / 'recordings'}"
    rows = {row.command: row for row in ready(config, parts, has_gpu=False)}
    assert rows["train"].lacks == ("latent store",) and rows["encode"].lacks == ("recordings",)
    assert rows["eval"].lacks == ("phases", "latent store") and not rows["demo"].lacks
    (run / "recordings" / "crafter").mkdir(parents=True)
    (run / "store").mkdir()
    (run / "store" / "manifest.json").write_text("{}")
    (run / "checkpoints" / "phase1" / "step-00000010").mkdir(parents=True)
    assert [part.found for part in run_parts(config, run)] == ["there", "there", "trained: 1"]


def test_a_card_needs_triton_and_a_compiler() -> None:
    parts = {name: Component(name, "", "missing", f"get {name}") for name in ("triton", "C compiler")}
    for setting in ("auto", "off"):  # Triton starts every kernel with it, compiled or not
        rows = {row.command: row for row in ready(load_config("debug", [f"compile={setting}"]), parts, has_gpu=True)}
        assert rows["train"].lacks == ("triton", "C compiler"), setting
    assert rows["train"].mends == ("get triton", "get C compiler")
    rows = {row.command: row for row in ready(load_config("debug", ["device=cpu"]), parts, has_gpu=True)}
    assert rows["train"].lacks == ()


def test_without_minecraft_the_world_model_is_evaluated_alone() -> None:
    parts = {"Minecraft": Component("Minecraft", "MineStudio is not installed", "missing", "pip install it")}
    rows = {row.command: row for row in ready(load_config("minerl_cosmos"), parts, has_gpu=False)}
    assert rows["eval"].lacks == () and "the world model alone" in rows["eval"].note
    assert rows["record"].lacks == ("data.env",) and "--config crafter" in rows["record"].mends[0]
    named = load_config("minerl_cosmos", ["evaluation.backend=minestudio"])
    rows = {row.command: row for row in ready(named, parts, has_gpu=False)}
    assert rows["eval"].lacks == ("Minecraft",)
