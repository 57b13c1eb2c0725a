"""A library is ok, missing or wrong for one reason that is said, and the line that mends it is one that works."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

import pytest

from fastdreamer.tools.doctor import requirements
from fastdreamer.tools.doctor.ask import Answer, Component, ask
from fastdreamer.tools.doctor.libraries import NSYS, at_rest, import_tasks, torch_parts, tried
from fastdreamer.tools.doctor.machine import Gpu
from fastdreamer.tools.doctor.requirements import PACKAGE, Declaration, Requirement, accepts, declaration

ROOT = Path(__file__).parents[2]
MADE_UP = Requirement("made-up", ">=1.2,<2", "engines")
CHECKOUT = Declaration(">=3.11", (MADE_UP,), is_checkout=True)
WHEEL = Declaration(">=3.11", (MADE_UP,), is_checkout=False)
TORCH = Requirement("torch", ">=2.11,<2.14")
RTX_3060 = Gpu("NVIDIA GeForce RTX 3060", 12288, "580.65.06", "8.6")


@pytest.mark.parametrize(
    ("versions", "found", "is_accepted"),
    [
        (">=2.11,<2.14", "2.11", True),
        (">=2.11,<2.14", "2.13.0+cpu", True),
        (">=2.11,<2.14", "2.9.1", False),
        (">=2.11,<2.14", "2.14.0", False),
        (">=15,<19", "18.1.0", True),
        (">=0.4,<0.5", "0.5", False),
        (">=3.11", "3.11.7", True),
        (">=1,<2", "unknown", False),
        ("", "7", True),
    ],
)
def test_versions_are_compared_by_their_numbers(versions: str, found: str, is_accepted: bool) -> None:
    assert accepts(versions, found) is is_accepted


def test_a_library_that_is_there_is_ok(library) -> None:
    library("made-up", "1.3")
    part, is_worth_trying = at_rest(MADE_UP, CHECKOUT, False)
    assert (part, is_worth_trying) == (Component("made-up", "1.3"), True)
    answers = ask(import_tasks([MADE_UP], of_torch=False))
    assert tried(part, MADE_UP, answers["made-up"]).verdict == "ok"


def test_a_missing_library_names_the_extra_that_brings_it() -> None:
    part, is_worth_trying = at_rest(MADE_UP, CHECKOUT, False)
    assert part == Component("made-up", "", "missing", f"pip install -e '{PACKAGE.parent}[engines]'")
    assert at_rest(MADE_UP, WHEEL, False)[0].mend == "pip install 'fastdreamer[engines]'"
    assert at_rest(Requirement("made-up", ">=1.2,<2"), WHEEL, False)[0].mend == "pip install 'made-up>=1.2,<2'"
    assert not is_worth_trying


def test_another_version_is_wrong(library) -> None:
    library("made-up", "2.0")
    part, is_worth_trying = at_rest(MADE_UP, CHECKOUT, False)
    assert part == Component("made-up", "2.0, wanted >=1.2,<2", "wrong", "pip install 'made-up>=1.2,<2'")
    assert not is_worth_trying


def test_two_versions_are_wrong(library) -> None:
    library("made-up", "1.3")
    library("made-up", "1.4")
    part, _ = at_rest(MADE_UP, CHECKOUT, False)
    assert (part.found, part.verdict) == ("2 versions: 1.4 and 1.3", "wrong")
    assert "pip uninstall -y made-up" in part.mend


def test_one_folder_that_is_on_the_path_twice_is_one(library, monkeypatch, tmp_path: Path) -> None:
    folder = library("made-up", "1.3")
    (tmp_path / "link").symlink_to(folder)
    monkeypatch.syspath_prepend(str(tmp_path / "link"))
    assert at_rest(MADE_UP, CHECKOUT, False)[0] == Component("made-up", "1.3")


def test_a_file_in_front_of_a_library_is_wrong_and_named(library, monkeypatch, tmp_path: Path) -> None:
    library("made-up", "1.3")
    (tmp_path / "made_up.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    part, is_worth_trying = at_rest(MADE_UP, CHECKOUT, False)
    assert part.found == f"{tmp_path / 'made_up.py'} is taken, 1.3 behind it"
    assert (part.verdict, part.mend, is_worth_trying) == ("wrong", "rename it, or start elsewhere", False)


def test_a_file_in_place_of_a_library_that_is_not_installed_is_wrong(monkeypatch, tmp_path: Path) -> None:
    (tmp_path / "made_up.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    part, _ = at_rest(MADE_UP, CHECKOUT, False)
    assert part.verdict == "wrong" and str(tmp_path / "made_up.py") in part.found and "rename it" in part.mend


def test_a_folder_that_is_no_package_hides_nothing(library, monkeypatch, tmp_path: Path) -> None:
    library("made-up", "1.3")
    (tmp_path / "made_up").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    assert at_rest(MADE_UP, CHECKOUT, False)[0].verdict == "ok"


def test_half_an_uninstall_is_wrong(library) -> None:
    folder = library("made-up", "1.3")
    (folder / "made_up-1.3.dist-info" / "METADATA").unlink()
    assert at_rest(MADE_UP, CHECKOUT, False)[0].found == "unknown, wanted >=1.2,<2"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("raise ImportError('libfoo.so.1: cannot open\\nshared object file')", "ImportError: libfoo.so.1: cannot open"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("import os; os._exit(0)", "its process ended with exit code 0"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "its process was ended by SIGSEGV"),
        ("import time; time.sleep(600)", "no answer for 6 s"),
        ("import os; os.write(1, b'noise'); os.write(2, b'noise')", ""),
    ],
)
def test_an_import_that_fails_crashes_or_hangs_is_a_line_and_the_next_is_tried(library, body: str, reason: str) -> None:
    library("made-up", "1.3", body)
    library("another", "1.0")
    limit = {"timeout_s": 6.0} if "no answer" in reason else {}  # the others are given what they need
    answers = ask(import_tasks([MADE_UP, Requirement("another", "")], of_torch=False), **limit)
    part = tried(Component("made-up", "1.3"), MADE_UP, answers["made-up"])
    assert reason in part.found and "\n" not in part.found and (part.verdict == "wrong") == bool(reason)
    assert reason == "" or part.mend == "pip install --force-reinstall 'made-up>=1.2,<2'"
    assert answers["another"] == Answer({})


def test_what_is_wanted_is_what_the_project_declares() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = declaration()
    assert declared.is_checkout and declared.python == project["requires-python"]
    extras = {one.extra for one in declared.libraries}
    assert extras == {"", *project["optional-dependencies"]} - {"dev"}
    named = {one.name: one for one in declared.libraries}
    assert named["torch"] == Requirement("torch", ">=2.11,<2.14") and named["onnx"].extra == "engines"
    assert named["tensorrt-rtx"].extra == "engines"
    assert named["py-spy"].extra == "profile" and named["torch-tensorrt"].extra == "datacentre"
    core = {requirements.plain(line.split(">")[0]) for line in project["dependencies"]}
    assert core == {one.name for one in declared.libraries if not one.extra}


def test_a_wheel_says_the_same_as_the_checkout(monkeypatch, tmp_path: Path) -> None:
    described = tmp_path / "fastdreamer-9.dist-info"
    described.mkdir()
    (described / "METADATA").write_text(
        "Metadata-Version: 2.4\nName: fastdreamer\nVersion: 9\nRequires-Python: >=3.11\n"
        "Requires-Dist: huggingface-hub<3,>=1.32\nRequires-Dist: torch<2.14,>=2.11\nProvides-Extra: cuda\n"
        "Requires-Dist: triton<3.8,>=3.6; (sys_platform == 'linux') and extra == 'cuda'\n"
        'Requires-Dist: odd<2; sys_platform == "linux" and platform_machine == "vax" and extra == "cuda"\n'
        "Requires-Dist: pytest>=8; extra == 'dev'\nRequires-Dist: fastdreamer[engines,profile]; extra == 'dev'\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(requirements, "PACKAGE", tmp_path / "fastdreamer")
    declared = declaration()
    assert (declared.python, declared.is_checkout) == (">=3.11", False)
    assert Requirement("triton", "<3.8,>=3.6", "cuda") in declared.libraries
    assert [one.name for one in declared.libraries][:3] == ["huggingface-hub", "torch", "triton"]
    assert "pytest" not in {one.name for one in declared.libraries}


def _facts(**changed: object) -> dict[str, Answer]:
    gpu = {"name": "RTX 3060", "gib": 12.0, "capability": "8.6"}
    facts = {"version": "2.13.0", "cuda": "13.0", "GPU": gpu, "cudnn": 91500} | changed
    return {"torch": Answer(facts), "convolution": Answer({"error": 2e-3, "is_sound": True, "on_gpu": True})}


def _torch(answers: dict[str, Answer], gpus: tuple[Gpu, ...] = (RTX_3060,)) -> dict[str, Component]:
    return {part.name: part for part in torch_parts(Component("torch", "2.13.0"), TORCH, answers, gpus)}


def test_a_sound_card_is_ok() -> None:
    parts = _torch(_facts())
    assert {part.verdict for part in parts.values()} == {"ok"}
    assert parts["GPU"].found == "RTX 3060, 12.0 GiB, compute capability 8.6, driver 580.65.06"
    assert parts["cuDNN"].found == "9.15.0"


@pytest.mark.parametrize(
    ("changed", "name", "words", "mend"),
    [
        ({"cudnn": 91002}, "cuDNN", "9.10.2, wanted >=9.15", "pip install --isolated"),
        ({"cudnn_error": "RuntimeError: cuDNN version incompatibility"}, "cuDNN", "incompatib", "LD_LIBRARY_PATH"),
        ({"cuda": None, "GPU": None, "cudnn": None}, "torch", "for the CPU, beside a GPU", "pip install --isolated"),
        ({"GPU": None}, "GPU", "torch sees none", "unset CUDA_VISIBLE_DEVICES, or install a driver for CUDA 13.0"),
    ],
)
def test_what_is_wrong_with_a_card_is_said(changed: dict[str, object], name: str, words: str, mend: str) -> None:
    parts = _torch(_facts(**changed))
    assert words in parts[name].found and parts[name].verdict == "wrong" and mend in parts[name].mend
    assert [one for one, part in parts.items() if part.verdict == "wrong"] == [name]


def test_a_convolution_that_is_off_is_wrong() -> None:
    answers = _facts() | {"convolution": Answer({"error": float("nan"), "is_sound": False, "on_gpu": True})}
    assert _torch(answers)["conv3d in bf16"].verdict == "wrong"
    died = _facts() | {"convolution": Answer({}, "its process was ended by SIGABRT")}
    assert _torch(died)["conv3d in bf16"].found == "its process was ended by SIGABRT"


def test_without_a_card_nothing_is_wrong() -> None:
    parts = _torch(_facts(cuda=None, GPU=None, cudnn=None), ())
    assert {name: part.verdict for name, part in parts.items() if part.verdict != "ok"} == {"GPU": "missing"}


def test_torch_2_9_is_known_to_be_bad(library, monkeypatch) -> None:
    monkeypatch.setattr(sys, "path", [str(library("torch", "2.9.1"))])
    part, is_worth_trying = at_rest(TORCH, CHECKOUT, False)
    assert "2.9.1, wanted >=2.11,<2.14: its conv3d is slow" in part.found and not is_worth_trying


def test_the_lines_that_install_are_those_of_the_commands() -> None:
    from fastdreamer.tools.profiling import nsys, pyspy

    assert nsys.INSTALL == NSYS
    wanted = next(one for one in declaration().libraries if one.name == "py-spy")
    assert f"{wanted.name}{wanted.versions}" in pyspy.INSTALL
