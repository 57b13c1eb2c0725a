"""`fastdreamer profile`: every tool makes its file, what it prints is what ran, and a mistake is one line."""

from __future__ import annotations

import ctypes
import gzip
import json
import os
import stat
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch
from torch.profiler import profile as torch_profile

from fastdreamer import cli
from fastdreamer.config import Config
from fastdreamer.data.actions import action_space
from fastdreamer.data.feed import Feed
from fastdreamer.data.sampler import CropSampler
from fastdreamer.data.synthetic import write_synthetic_store
from fastdreamer.errors import UserError
from fastdreamer.profiling import flame, nsys, pyspy, work
from fastdreamer.profiling.blocks import Change, replay
from fastdreamer.profiling.memory import changes_in_history, changes_in_trace
from fastdreamer.profiling.picture import memory_picture
from fastdreamer.ranges import _NOTHING, RANGES, span, spanned
from fastdreamer.settings import dump_config, load_config
from fastdreamer.training.train import train

SMALL = [
    "--config",
    "debug",
    "device=cpu",
    "precision=fp32",
    "dynamics.dim=16",
    "dynamics.layers=2",
    "imagination.horizon=2",
]
QUICK = ["--warmup", "1", "--steps", "1"]
UPDATE = ["draw", "draw > batch", "forward", "backward", "clip", "optimizer", "average"]
EXPECTED = {
    "1": [*UPDATE, "draw > normalise", "forward > half steps"],
    "2": UPDATE,
    "3": [*UPDATE, "draw > context", "draw > rollout > policy", "draw > rollout > denoise", "draw > heads"],
    "imagine": ["batch", "context", "rollout", "rollout > policy", "rollout > denoise", "heads"],
    "encode": ["wait for frames", "encode > resample", "encode > encoder", "encode > pool"],
}


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., dict[str, Any]]:
    """Runs the command and returns its line of JSON."""

    def profile(*words: str) -> dict[str, Any]:
        assert cli.main(["profile", "--json", "--out", str(tmp_path / "out"), *words]) == 0
        return dict(json.loads(capsys.readouterr().out.splitlines()[-1]))

    return profile


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
    (file,) = found["files"].values()
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
    for phase in ("1", "2"):
        found = run("--phase", phase, "--run-dir", str(folder), *QUICK, "--tool", "none")
        assert "weights of phase 1" in found["on"] and str(folder / "store") in found["on"]
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    assert cli.main(["profile", "--phase", "3", "--run-dir", str(folder)]) == 2
    assert "has no phase 2 checkpoint" in capsys.readouterr().err


def test_memory_shows_the_peak_and_who_holds_it(run: Callable[..., dict[str, Any]]) -> None:
    found = run("--phase", "1", "--tool", "memory", *QUICK, *SMALL)
    assert 0 < found["peak_mib"] < found["resident_mib"]
    makers = [row["made by"] for row in found["at_peak"]]
    assert any(maker.startswith("forward: aten::") for maker in makers)
    assert sum(row["mib"] for row in found["at_peak"]) <= found["peak_mib"] * 1.001
    content = json.loads(Path(found["files"]["numbers"]).read_text())
    assert max(content["total_bytes"]) == pytest.approx(found["peak_mib"] * 2**20)
    words = "".join(ElementTree.parse(found["files"]["picture"]).getroot().itertext())
    assert "backward" in words and f"peak {found['peak_mib']:.1f} MiB" in words


def test_blocks_are_played_again_whatever_their_addresses() -> None:
    changes = [
        Change(1.0, 7, 100, "a: x"),
        Change(2.0, 8, 50, "b"),
        Change(3.0, 7, -100),
        Change(4.0, 7, 120, "b"),  # the address once more
        Change(5.0, 9, -30),  # taken before the recording
        Change(6.0, 8, -50),
        Change(7.0, 7, -120),
    ]
    timeline = replay(reversed(changes))
    assert timeline.total == [100, 150, 50, 170, 140, 90, -30]
    assert timeline.peak_bytes == 170 and timeline.times_ms[timeline.peak] == 3.0
    assert [(h.by, h.size_bytes, h.blocks) for h in timeline.at_peak] == [("b", 170, 2)]
    assert timeline.held[1] == {"a: x": 100, "b": 50} and timeline.held[-1] == {}
    thinned = replay(changes, points=2)
    assert thinned.peak_bytes == 170 and len(thinned.total) < 7
    for drawn in (timeline, thinned, replay([])):
        ElementTree.fromstring(memory_picture(drawn, "a < b"))


def test_allocations_belong_to_the_innermost_range_and_its_outermost_operator() -> None:
    def op(name: str, begin: float, length: float, kind: str = "cpu_op", thread: int = 1) -> dict[str, Any]:
        return {"name": name, "cat": kind, "ts": begin, "dur": length, "tid": thread}

    def block(at: float, size: int, thread: int = 1) -> dict[str, Any]:
        return {"name": "[memory]", "ts": at, "tid": thread, "args": {"Bytes": size, "Addr": at}}

    events = [
        op("ProfilerStep#1", 0, 100, "user_annotation"),
        op("forward", 10, 50, "user_annotation"),
        op("aten::linear", 20, 10),
        op("aten::mm", 22, 5),
        op("half steps", 40, 10, "user_annotation"),
        block(5, 1),
        block(24, 2),
        block(35, 3),
        block(45, 4),
        block(24, 5, thread=2),
    ]
    found = {change.size_bytes: change.by for change in changes_in_trace(events)}
    outside = "outside the ranges"
    assert found == {1: outside, 2: "forward: aten::linear", 3: "forward", 4: "half steps", 5: outside}


def test_a_cards_history_names_our_innermost_line() -> None:
    ours = {"filename": "/x/fastdreamer/dynamics/norm.py", "line": 9, "name": "forward"}
    theirs = {"filename": "/x/torch/nn/modules/module.py", "line": 1, "name": "call"}
    entry = {"addr": 1, "size": 8, "time_us": 2000}
    entries = [
        entry | {"action": "alloc", "frames": [theirs, ours]},
        entry | {"action": "free_requested", "frames": []},
        entry | {"action": "free_completed", "frames": []},
    ]
    taken, given = changes_in_history(entries)
    assert (taken.by, taken.size_bytes, taken.at_ms) == ("forward (norm.py:9)", 8, 2.0)
    assert (given.by, given.size_bytes) == ("outside our code", -8)


@contextmanager
def stuck_loader() -> Iterator[None]:
    """A feed whose thread makes a batch that never comes, and somebody who waits for it."""
    release = threading.Event()

    class Sampler(CropSampler):
        def __init__(self) -> None:
            """No episodes."""

        def batch(self, number: int) -> Any:
            release.wait()
            raise KeyError(number)

    def draw() -> None:
        with pytest.raises(KeyError):
            feed.draw()

    feed = Feed(Sampler(), torch.device("cpu"), ahead=1)
    trainer = threading.Thread(target=draw, name="trainer")
    trainer.start()
    try:
        yield
    finally:
        release.set()
        trainer.join()
        feed.close()


@pytest.fixture
def visible() -> None:
    """Lets the profiler, which is this process's child, look at it where the kernel asks for leave (Yama)."""
    ctypes.CDLL(None).prctl(0x59616D61, -1, 0, 0, 0)
    try:
        pyspy._run([pyspy.find_pyspy(), "dump", "--pid", str(os.getpid())])
    except UserError as error:
        if "may not look" in str(error):
            pytest.skip(str(error))
        raise


def test_the_stacks_of_a_stuck_loader_say_where_it_hangs(visible: None, run: Callable[..., dict[str, Any]]) -> None:
    with stuck_loader():
        found = run("--dump", str(os.getpid()))
    threads = {row["thread"]: row for row in found["threads"]}
    assert "Feed._make" in threads["batches_0"]["ours"] and "feed.py" in threads["batches_0"]["ours"]
    assert "Feed._next" in threads["trainer"]["ours"] and threads["trainer"]["state"] == "waiting"
    text = Path(found["files"]["stacks"]).read_text()
    assert "batches_0" in text and "Sampler.batch" in text and "libc.so" in text


@pytest.mark.slow
def test_a_flame_graph_holds_the_functions_of_the_work_and_native_ones(
    visible: None, run: Callable[..., dict[str, Any]]
) -> None:
    found = run("--phase", "1", "--tool", "pyspy", "--steps", "40", *SMALL)
    (file,) = found["files"].values()
    root = flame.read_flame(Path(file))
    names = {frame.name for frame in root.walk()}
    for function in ("boot_target", "Pieces._gradients", "Update.apply", "Transformer.forward"):
        assert any(name.startswith(f"{function} (fastdreamer/") for name in names), function
    assert any("libtorch_cpu" in name for name in names), "native frames"
    assert found["samples"] == root.samples > found["samples_in_steps"] > 0
    assert any(row["function"].startswith("boot_target") for row in found["ours"])


@pytest.mark.slow
def test_a_running_process_can_be_sampled(visible: None, run: Callable[..., dict[str, Any]]) -> None:
    stop = threading.Event()

    def spin_in_python() -> None:
        while not stop.is_set():
            sum(range(1000))

    thread = threading.Thread(target=spin_in_python)
    thread.start()
    try:
        found = run("--pid", str(os.getpid()), "--seconds", "1")
    finally:
        stop.set()
        thread.join()
    (file,) = found["files"].values()
    assert any("spin_in_python" in frame.name for frame in flame.read_flame(Path(file)).walk())
    assert any("spin_in_python" in row["function"] or "sum" in row["function"] for row in found["own"])


FLAME = """<svg xmlns="http://www.w3.org/2000/svg" xmlns:fg="http://github.com/jonhoo/inferno">
<g><title>all (10 samples, 100%)</title><rect y="0" fg:x="0" fg:w="10"/></g>
<g><title>main (a.py:1) (7 samples, 70.00%)</title><rect y="16" fg:x="0" fg:w="7"/></g>
<g><title>other (b.py:2) (3 samples, 30.00%)</title><rect y="16" fg:x="7" fg:w="3"/></g>
<g><title>f (a.py:5) (4 samples, 40.00%)</title><rect y="32" fg:x="0" fg:w="4"/></g>
<g><title>f (a.py:6) (2 samples, 20.00%)</title><rect y="48" fg:x="1" fg:w="2"/></g>
<g><title>g&lt;(int)2&gt; (lib.so) (2 samples, 20.00%)</title><rect y="32" fg:x="7" fg:w="2"/></g></svg>"""


def test_a_flame_graph_is_read_back(tmp_path: Path) -> None:
    (tmp_path / "f.svg").write_text(FLAME)
    root = flame.read_flame(tmp_path / "f.svg")
    assert root.samples == 10 and [frame.samples for frame in root.find("f")] == [4]
    assert flame.own_samples([root]) == {"main (a.py)": 3, "other (b.py)": 1, "f (a.py)": 4, "g<(int)2> (lib.so)": 2}
    assert flame.samples_through([root])["f (a.py)"] == 4, "a call of itself counts once"


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


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], Path]:
    """Puts a program of that name first on the PATH."""

    def put(name: str, text: str) -> Path:
        program = tmp_path / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(text)
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
        return program

    return put


@pytest.mark.slow
def test_nsys_runs_the_same_work_and_its_reports_are_summed_up(
    tmp_path: Path,
    stand_in: Callable[[str, str], Path],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(nsys, "has_card", lambda: True)
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
    assert "dynamics.dim=16" in called[0] and "debug" in called[0]
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
    made = work.Work("phase1", "", lambda: seen.append("step"), torch.device("cuda"))
    assert nsys.bare(made, warmup=1, steps=2)["step_ms"] > 0
    assert seen == ["step", "wait", "start", "nvtx", "step", "wait", "step", "wait", "stop"]


def test_the_command_of_nsys_can_be_printed_alone(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = ["profile", "--phase", "3", "--tool", "nsys", "--print-command", "--out", str(tmp_path / "out")]
    assert cli.main([*words, "--config", "debug", "seed=3"]) == 0
    out = capsys.readouterr().out
    assert "--capture-range=cudaProfilerApi" in out and "--phase 3 --tool none" in out and "seed=3" in out
    assert not (tmp_path / "out").exists()


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
        ("--phase 1 --tool nsys", "nsys is not on the PATH: install Nsight Systems (`apt-get install"),
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


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("echo 'Permission Denied: Try running again' >&2; exit 1", "may not look into that process"),
        ("echo 'Error: Failed to find python version' >&2; exit 1", "py-spy failed: Error: Failed to find python"),
        ("echo 'fastdreamer: error: R has no phase 1' >&2", "R has no phase 1"),
        ("exit 0", "wrote no"),
    ],
)
def test_what_goes_wrong_under_pyspy_is_one_line(
    script: str, message: str, stand_in: Callable[[str, str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = stand_in("py-spy", f"#!/bin/sh\n{script}\n")
    monkeypatch.setattr(pyspy, "find_pyspy", lambda: str(program))
    with pytest.raises(UserError, match=message):
        pyspy.record(["profile"], tmp_path / "f.svg")


def test_a_process_that_is_not_there_is_named() -> None:
    with pytest.raises(UserError, match="there is no process 4194999"):
        pyspy.dump(4194999, Path("unused"))


def test_a_recording_of_every_preset_can_be_made_up(small_config: Config, tmp_path: Path) -> None:
    from fastdreamer.profiling.footage import linked, recordings_for

    found, about = recordings_for(small_config, None, tmp_path)
    assert len(found) == 3 and "made-up" in about
    root = linked(found[1], tmp_path / "alone")
    from fastdreamer.data.find import find_recordings

    assert [recording.name for recording in find_recordings(root)] == [found[1].name]


@pytest.fixture(params=["debug", "minerl_cosmos"])
def small_config(request: pytest.FixtureRequest) -> Config:
    """A preset."""
    return load_config(request.param)
