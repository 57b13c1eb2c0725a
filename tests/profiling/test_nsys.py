"""The command of Nsight Systems, with a stand-in for it, and what it captures."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from fastdreamer import cli
from fastdreamer.tools.profiling import nsys
from fastdreamer.tools.profiling import profiled_work as work

from .conftest import QUICK, SMALL

NSYS = """#!PYTHON
import json, pathlib, subprocess, sys
words = sys.argv[1:]
with open("LOG", "a") as log:
    log.write(json.dumps(words) + "\\n")
if words[0] == "profile":
    inner = words.index(sys.executable)
    code = subprocess.run(words[inner:]).returncode
    pathlib.Path(words[words.index("-o") + 1] + ".nsys-rep").touch()
    sys.exit(code)
print("Processing [FILE]...")
if "cuda_gpu_kern_sum" in words:
    print("Time (%),Total Time (ns),Instances,Name")
    for i in range(12):
        print(f"{9 - i}.5,2000000,3,kernel {i}")
else:
    print("Time (%),Total Time (ns),Instances,Range")
    print("60,5000000,1,:draw")
"""


@pytest.mark.slow
def test_nsys_runs_the_same_work_and_its_reports_are_summed_up(
    tmp_path: Path,
    stand_in: Callable[[str, str], Path],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(nsys, "has_gpu", lambda: True)
    log = tmp_path / "log"
    stand_in("nsys", NSYS.replace("PYTHON", sys.executable).replace("LOG", str(log)))
    words = ["profile", "--out", str(tmp_path / "out"), "--phase", "1", "--tool", "nsys", "--json", *QUICK, *SMALL]
    assert cli.main(words) == 0
    out = capfd.readouterr().out
    assert "step_ms" in out, "the inner command really ran"
    found = json.loads(out.splitlines()[-1])
    assert [row["name"] for row in found["kernels"]] == [f"kernel {i}" for i in range(10)]
    assert found["kernels"][0] == {"share": "9.5 %", "ms": "2.000", "calls": "3", "name": "kernel 0"}
    assert found["ranges"] == [{"share": "60 %", "ms": "5.000", "calls": "1", "name": ":draw"}]
    called = [json.loads(line) for line in log.read_text().splitlines()]
    assert {"--capture-range=cudaProfilerApi", "--trace=cuda,nvtx,osrt"} <= set(called[0])
    assert "dynamics.dim=16" in called[0] and "--config=debug" in called[0]
    assert [words[:3] for words in called[1:]] == [["stats", "--report", r] for r in nsys.REPORTS.values()]


def test_on_a_card_the_bare_steps_lie_between_start_and_stop_with_nvtx_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    @contextmanager
    def emit_nvtx() -> Iterator[None]:
        seen.append("nvtx")
        yield

    monkeypatch.setattr(torch.cuda.profiler, "start", lambda: seen.append("start"))
    monkeypatch.setattr(torch.cuda.profiler, "stop", lambda: seen.append("stop"))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: seen.append("wait"))
    monkeypatch.setattr(torch.autograd.profiler, "emit_nvtx", emit_nvtx)
    made = work.ProfiledSteps("phase1", "", lambda: seen.append("step"), torch.device("cuda"))
    assert nsys.bare(made, warmup=1, steps=2)["step_ms"] > 0
    assert seen == ["step", "wait", "start", "nvtx", "step", "wait", "step", "wait", "stop"]


def test_the_command_of_nsys_can_be_printed_alone(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = ["profile", "--phase", "3", "--tool", "nsys", "--print-command", "--out", str(tmp_path / "out")]
    assert cli.main([*words, "--config", "debug", "seed=3"]) == 0
    out = capsys.readouterr().out
    assert "--capture-range=cudaProfilerApi" in out and "--phase 3 --tool none" in out and "seed=3" in out
    assert not (tmp_path / "out").exists()
