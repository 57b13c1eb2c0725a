"""Traces hold the named ranges of the data flow, on made-up data and on a run; a mistake is one line."""

from __future__ import annotations

import gzip
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch
from torch.profiler import profile as torch_profile

from fastdreamer import cli
from fastdreamer.config import Config, load_config
from fastdreamer.device import Backend
from fastdreamer.errors import UserError
from fastdreamer.latents.synthetic import write_synthetic_store
from fastdreamer.recordings.actions import action_space
from fastdreamer.run.directory import RunDirectory
from fastdreamer.settings import dump_config
from fastdreamer.system.ranges import _NOTHING, RANGES, span, spanned
from fastdreamer.tools.profiling import profiled_work as work
from fastdreamer.training.train import train

from .conftest import QUICK, SMALL

UPDATE = ["draw", "draw > batch", "forward", "backward", "clip", "optimizer", "average"]
EXPECTED = {
    "1": [*UPDATE, "draw > normalise", "forward > half steps"],
    "2": UPDATE,
    "3": [*UPDATE, "draw > context", "draw > rollout > policy", "draw > rollout > denoise", "draw > heads"],
    "imagine": ["batch", "context", "rollout", "rollout > policy", "rollout > denoise", "heads"],
    "encode": ["wait for frames", "encode > resample", "encode > encoder", "encode > pool"],
}


@pytest.mark.parametrize(
    "target", [pytest.param(name, marks=[pytest.mark.slow] * (name == "imagine")) for name in EXPECTED]
)
def test_a_trace_holds_the_ranges_of_the_data_flow(target: str, run: Callable[..., dict[str, Any]]) -> None:
    found = run("--phase", target, *QUICK, *SMALL)
    paths = {row["range"]: row for row in found["ranges"]}
    assert set(EXPECTED[target]) <= set(paths)
    whole = sum(row["share"] for path, row in paths.items() if ">" not in path and "thread" not in path)
    assert 0.6 < whole < 1.1, "what is outside the ranges is little"
    for path, row in paths.items():
        assert row["ms"] <= paths.get(path.rpartition(" > ")[0], row)["ms"] * 1.001, path
    assert 0 < len(found["operators"]) <= 10 and found["step_ms"] > 0
    assert not {row["operator"] for row in found["operators"]} & set(RANGES)
    file, picture = found["files"].values()
    words = "".join(ElementTree.parse(picture).getroot().itertext())
    assert "operators" in words and max(paths.values(), key=lambda row: row["ms"])["range"].split(" ")[0] in words
    with gzip.open(file) as stream:
        events = json.load(stream)["traceEvents"]
    in_file = {e["name"] for e in events if e.get("cat") == "user_annotation"}
    assert {name for path in EXPECTED[target] for name in path.split(" > ")} <= in_file
    if target == "encode":
        assert {"decode (another thread)", "write (another thread)"} <= set(paths)


def test_ranges_cost_nothing_without_a_profiler_and_do_not_break_a_compiled_pass() -> None:
    assert span("draw") is _NOTHING
    assert list(spanned("decode", iter("abc"))) == ["a", "b", "c"]

    def function(x: torch.Tensor) -> torch.Tensor:
        with span("forward"):
            return torch.sin(x) + 1

    compiled = torch.compile(function, fullgraph=True, backend="eager")
    x = torch.ones(3)
    assert torch.equal(compiled(x), function(x))
    with torch_profile() as profiler:
        list(spanned("decode", [1, 2]))
        assert torch.equal(compiled(x), function(x))
    names = [event.name for event in profiler.events() or ()]
    assert names.count("decode") == 3 and "forward" in names, "the end of the items is looked for too"


def test_a_runs_own_weights_are_profiled_and_nothing_else_is_written(
    tmp_path: Path, run: Callable[..., dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    config = load_config("debug", [*SMALL[2:], "phase1.steps=2", "phase1.warmup_steps=1", "data.recordings=/none"])
    write_synthetic_store(folder / "store", config.tokenizer.clock, action_space(config.data.env), 3, 12, 0)
    dump_config(config, folder / "config.yaml")
    assert "random weights" in run("--phase", "1", "--run-dir", str(folder), *QUICK, "--tool", "none")["on"]
    train(config, folder, 1)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    built, _ = work._phase(config, 1, folder, tmp_path, Backend(torch.device("cpu"), "fp32"))
    average = RunDirectory(folder).load(1, config).tensors["ema"]
    assert all(torch.equal(value, average[name]) for name, value in built.model.state_dict().items())
    for phase in ("1", "2"):
        found = run("--phase", phase, "--run-dir", str(folder), *QUICK, "--tool", "none")
        assert "weights of phase 1" in found["on"] and str(folder / "store") in found["on"]
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    assert cli.main(["profile", "--phase", "3", "--run-dir", str(folder)]) == 2
    assert "has no phase 2 checkpoint" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "no --phase is given: name 1, 2, 3, encode, imagine"),
        ("--phase 4", "--phase is '4'"),
        ("--phase 1 --tool perf", "tool is 'perf'; there are torch, pyspy, nsys, memory"),
        ("--phase 1 --warmup 0", "--warmup is 0; it must be at least 1"),
        ("--phase 1 --steps -1", "--steps is -1"),
        ("--phase 1 --pid 7", "go with --tool pyspy and without --phase"),
        ("--dump 7 --tool torch", "go with --tool pyspy and without --phase"),
        ("--phase 1 --print-command", "--print-command goes with --tool nsys"),
        ("--phase 1 --tool nsys", "nsys is not on the PATH: install Nsight Systems from its web page, or"),
        ("--phase 1 --tool pyspy", "py-spy is not installed: pip install 'py-spy"),
        ("--phase 1 --run-dir R", "R is not a run directory"),
        ("--phase encode --out F/x", "cannot write to F/x (Not a directory): choose another --out"),
    ],
)
def test_a_mistake_is_one_line(
    words: str, message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    Path("F").touch()
    given = words.split() if "--run-dir" in words else [*words.split(), *SMALL]
    assert cli.main(["profile", *given]) == 2
    err = capsys.readouterr().err
    assert err.startswith("fastdreamer: error: ") and err.count("\n") == 1 and message in err


def test_a_recording_of_every_preset_can_be_made_up(small_config: Config, tmp_path: Path) -> None:
    from fastdreamer.tools.profiling.profiled_work import linked, recordings_for

    found, about = recordings_for(small_config, None, tmp_path)
    assert len(found) == 3 and "made-up" in about
    root = linked(found[1], tmp_path / "alone")
    from fastdreamer.recordings.find import find_recordings

    assert [recording.name for recording in find_recordings(root)] == [found[1].name]


@pytest.fixture(params=["debug", "minerl_cosmos"])
def small_config(request: pytest.FixtureRequest) -> Config:
    """A preset."""
    return load_config(request.param)


def test_a_damaged_recording_ends_no_profile_while_there_are_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fastdreamer.encoding import pipeline as encode
    from fastdreamer.tokenizer.engines import installed as engines

    tried: list[str] = []

    def encode_one(config: Config, recordings: Path, *_: object) -> None:
        (folder,) = recordings.glob("*/v3_*")
        tried.append(folder.name)
        if "-1_" in folder.name:
            raise UserError("it is damaged")

    monkeypatch.setattr(encode, "encode_recordings", encode_one)
    monkeypatch.setattr(engines, "open_tokenizer", lambda *_: None)
    monkeypatch.setattr(engines, "describe", lambda _: "none")
    made = work._encoding(load_config("debug"), None, tmp_path, Backend(torch.device("cpu"), "fp32", False))
    for _ in range(5):
        made.step()
    damaged = [name for name in tried if "-1_" in name]
    assert len(tried) == 6 and len(damaged) == 1 and len(set(tried)) == 3
