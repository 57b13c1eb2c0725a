"""`compile: auto` on a CPU: when a phase is compiled, what is left for the next one, and what a resumed one does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch._inductor.runtime.cache_dir_utils import default_cache_dir

from fastdreamer.config import Config, load_config
from fastdreamer.device import Backend
from fastdreamer.system import compiling
from fastdreamer.training import when_to_compile
from fastdreamer.training.when_to_compile import COLD_S, DECIDES_AFTER, GAIN, WhenToCompile


@pytest.fixture(autouse=True)
def no_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What would be compiled only doubles what it gives, and the cache is the test's own."""
    monkeypatch.setenv(compiling.FOLDER, str(tmp_path))
    monkeypatch.setattr(compiling, "compiled", lambda function: lambda *words: 2 * function(*words))


def backend(function=None) -> Backend:
    found = Backend(torch.device("cpu"), "fp32", deferred=compiling.Deferred())
    found.deferred.wrapped(function or (lambda x: x))
    return found


def watched(on: Backend, steps: int, seconds: list[float], noted: object = None, config: Config | None = None):
    """A phase's watch after steps that took these seconds."""
    when = WhenToCompile(config or load_config("debug"), 1, on, steps, "phase 1", noted)
    for done, took in enumerate(seconds, 1):
        when.see(done, took)
    return when


def test_calls_are_compiled_from_the_moment_it_is_decided() -> None:
    on = Backend(torch.device("cpu"), "fp32", deferred=compiling.Deferred())
    call = on.compiled(lambda x: x + 1)
    assert (on.may_compile, call(1), on.deferred.turn_on(), call(1)) == (True, 2, "", 4)
    off = Backend(torch.device("cpu"), "fp32")
    assert (off.may_compile, off.compiled(len)) == (False, len)


@pytest.mark.parametrize("share", [0.9, 1.1])
def test_a_phase_is_compiled_where_it_saves_more_than_it_takes(share: float, capsys) -> None:
    steps = DECIDES_AFTER + 1000
    when = watched(backend(), steps, [9.0, *[share * COLD_S[1] / GAIN[1] / 1000] * 4])
    assert when.note() == {"compiled": share > 1}
    said = capsys.readouterr().out
    assert ("compiled from here on, takes about 60 s and saves 66" in said) is (share > 1)
    assert when.deferred.is_on is (share > 1)


def test_a_phase_without_anything_to_compile_is_left_alone() -> None:
    on = Backend(torch.device("cpu"), "fp32", deferred=compiling.Deferred())
    assert watched(on, 10**6, [100.0] * 5).note() == {}


def test_the_next_phase_knows_what_it_took_and_saved(tmp_path: Path, capsys) -> None:
    first = watched(backend(), 10**6, [1.0] * 3 + [41.0, 0.5, 11.0] + [0.5] * 20)
    first.finish()
    (left,) = tmp_path.rglob("fastdreamer-*.json")
    assert json.loads(left.read_text()) == {"eager_s": 1.0, "compiled_s": 0.5, "cold_s": 40.5 + 10.5}
    capsys.readouterr()
    assert not watched(backend(), 3 + 30, [1.0] * 3).deferred.is_on  # half of a second, 30 times
    second = watched(backend(), 3 + 31, [1.0] * 3)
    assert "takes about 15 s and saves 16" in capsys.readouterr().out and second.deferred.is_on
    for done in range(4, 30):
        second.see(done, 5.0 if done == 4 else 0.5)
    second.finish()
    assert json.loads(left.read_text())["warm_s"] == 4.5
    assert watched(backend(), 13, [1.0] * 3).deferred.is_on  # 5 s against 4.5, from the disk
    assert not watched(backend(), 11, [1.0] * 3).deferred.is_on
    other = load_config("debug", ["dynamics.registers=3"])
    assert not watched(backend(), 113, [1.0] * 3, config=other).deferred.is_on  # other shapes are not on the disk


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"eager_s": 0, "compiled_s": 1, "cold_s": 1}', '{"eager_s": "x"}'])
def test_figures_that_are_damaged_are_passed_over(text: str, tmp_path: Path) -> None:
    first = watched(backend(), 10**6, [1.0] * 40)
    first.finish()
    (left,) = tmp_path.rglob("fastdreamer-*.json")
    left.write_text(text)
    assert watched(backend(), 10**6, [1.0] * 3).known is None


def test_what_did_not_help_is_not_done_again() -> None:
    watched(backend(), 10**6, [1.0] * 3 + [1.1] * 20).finish()
    assert not watched(backend(), 10**6, [1.0] * 3).deferred.is_on


@pytest.mark.parametrize("noted", [True, False])
def test_a_resumed_phase_goes_on_as_it_was(noted: bool, capsys) -> None:
    when = watched(backend(), 10**6, [1000.0] * 5, noted)
    assert when.deferred.is_on is noted and when.note() == {"compiled": noted}
    assert ("as this phase was trained so far" in capsys.readouterr().out) is noted


@pytest.mark.parametrize("noted", [None, "yes", 1])
def test_a_phase_of_which_nothing_sensible_is_noted_decides_after_two_steps(noted: object) -> None:
    when = WhenToCompile(load_config("debug"), 1, backend(), 10**6, "phase 1", noted)
    when.see(501, 100.0)
    assert when.note() == {}
    when.see(502, 100.0)
    assert when.note() == {"compiled": True}


def test_a_compiler_that_fails_leaves_the_phase_eager_and_says_why(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    def broken(function):
        raise RuntimeError("g++: Python.h: No such file\nand more")

    monkeypatch.setattr(compiling, "compiled", broken)
    when = watched(backend(), 10**6, [1.0] * 5)
    assert when.note() == {"compiled": False} and not when.deferred.is_on
    assert "cannot: RuntimeError: g++: Python.h: No such file; compile=on" in capsys.readouterr().out


def test_a_cache_that_cannot_be_written_costs_the_figures_alone(tmp_path: Path) -> None:
    when = watched(backend(), 10**6, [1.0] * 40)
    (tmp_path / "file").write_text("")
    when.path = tmp_path / "file" / "below.json"
    when.finish()


def test_what_is_said_outright_is_noted_too() -> None:
    for compiles in (True, False):
        on = Backend(torch.device("cpu"), "fp32", compiles)
        assert WhenToCompile(load_config("debug"), 1, on, 10, "", None).note() == {"compiled": compiles}


def test_the_cache_lies_in_the_account_s_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    kind = compiling.kind_of_cpu()
    assert compiling.cache_folder() == tmp_path / kind
    monkeypatch.setenv(compiling.FOLDER, default_cache_dir())  # which torch writes there by itself
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert compiling.cache_folder() == tmp_path / "cache" / "fastdreamer" / "compiled" / kind
    compiling.prepare()
    assert compiling.cache_folder() == tmp_path / "cache" / "fastdreamer" / "compiled" / kind
    monkeypatch.setenv(compiling.FOLDER, default_cache_dir())
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert "torchinductor" in compiling.cache_folder().parent.name  # torch's own


COMPILES = """
import torch
from fastdreamer.system import compiling
compiling.prepare()
x = torch.linspace(-3, 3, 1000).reshape(8, 125)
sums = compiling.compiled(lambda x: torch.nn.functional.gelu(x).softmax(-1).sum(0))(x)
torch.testing.assert_close(sums, torch.nn.functional.gelu(x).softmax(-1).sum(0))
print(torch.backends.cpu.get_cpu_capability())
"""


@pytest.mark.long
def test_a_cache_that_cpus_share_gives_each_its_own_code(tmp_path: Path) -> None:
    if torch.backends.cpu.get_cpu_capability() != "AVX512":
        pytest.skip("needs a CPU that can take itself for another: one with AVX-512")
    for capability in ("avx512", "avx2"):
        environment = {**os.environ, compiling.FOLDER: str(tmp_path), "ATEN_CPU_CAPABILITY": capability}
        done = subprocess.run([sys.executable, "-c", COMPILES], env=environment, capture_output=True, text=True)
        assert done.returncode == 0 and done.stdout.strip() == capability.upper(), done.stderr


def test_decisions_are_about_the_settings_that_make_the_code() -> None:
    on, config = backend(), load_config("debug")
    first = when_to_compile._path(config, 1, on)
    for override in ("phase1.batch_size=3", "heads.layers=3", "sampling.short_window=3"):
        assert when_to_compile._path(load_config("debug", [override]), 1, on) != first
    assert when_to_compile._path(load_config("debug", ["phase1.steps=3"]), 1, on) == first
    assert when_to_compile._path(config, 2, on) != first
