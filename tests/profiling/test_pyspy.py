"""Flame graphs and stacks by py-spy: made, read back, and refused in one line."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from fastdreamer.errors import UserError
from fastdreamer.latents.crop_sampler import CropSampler
from fastdreamer.latents.loader import Loader
from fastdreamer.tools.profiling import pyspy

from .conftest import SMALL


def functions_of(thread: threading.Thread) -> set[str]:
    """Those that are on a thread's stack."""
    frame, names = sys._current_frames().get(thread.ident or 0), set[str]()
    while frame is not None:
        names.add(frame.f_code.co_qualname)
        frame = frame.f_back
    return names


@contextmanager
def stuck_loader() -> Iterator[None]:
    """A loader whose thread makes a batch that never comes, and somebody who waits for it."""
    entered, release = threading.Event(), threading.Event()

    class Sampler(CropSampler):
        def __init__(self) -> None:
            """No episodes."""

        def batch(self, number: int) -> Any:
            entered.set()
            release.wait()
            raise KeyError(number)

    def draw() -> None:
        with pytest.raises(KeyError):
            loader.draw()

    loader = Loader(Sampler(), torch.device("cpu"), ahead=1)
    trainer = threading.Thread(target=draw, name="trainer")
    trainer.start()
    try:
        assert entered.wait(60)
        deadline = time.monotonic() + 60
        while not {"Loader._next", "Future.result", "Condition.wait"} <= functions_of(trainer):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        yield
    finally:
        release.set()
        trainer.join()
        loader.close()


def test_the_stacks_of_a_stuck_loader_say_where_it_hangs(visible: None, run: Callable[..., dict[str, Any]]) -> None:
    with stuck_loader():
        found = run("--dump", str(os.getpid()))
    threads = {row["thread"]: row for row in found["threads"]}
    assert "Loader._make" in threads["batches_0"]["ours"] and "loader.py" in threads["batches_0"]["ours"]
    assert "Loader._next" in threads["trainer"]["ours"] and threads["trainer"]["state"] == "waiting"
    text = Path(found["files"]["stacks"]).read_text()
    assert "batches_0" in text and "Sampler.batch" in text and "libc.so" in text


@pytest.mark.slow
def test_a_flame_graph_holds_the_functions_of_the_work_and_native_ones(
    visible: None, run: Callable[..., dict[str, Any]]
) -> None:
    found = run("--phase", "1", "--tool", "pyspy", "--steps", "40", *SMALL)
    (file,) = found["files"].values()
    root = pyspy.read_flame(Path(file))
    names = {frame.name for frame in root.walk()}
    for function in ("boot_target", "MicroBatches._gradients", "Update.apply", "Transformer.forward"):
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
    assert any("spin_in_python" in frame.name for frame in pyspy.read_flame(Path(file)).walk())
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
    root = pyspy.read_flame(tmp_path / "f.svg")
    assert root.samples == 10 and [frame.samples for frame in root.find("f")] == [4]
    assert pyspy.own_samples([root]) == {"main (a.py)": 3, "other (b.py)": 1, "f (a.py)": 4, "g<(int)2> (lib.so)": 2}
    assert pyspy.samples_through([root])["f (a.py)"] == 4, "a call of itself counts once"


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


def test_names_of_templates_are_cut_to_what_they_say() -> None:
    template = "c10::function_ref<void (char**)>::callback_fn<at::(anonymous namespace)::mul_kernel(" + "x" * 90
    assert pyspy.readable(f"{template})> (libtorch_cpu.so)") == "mul_kernel (libtorch_cpu.so)"
    assert pyspy.readable("f (a.py)") == "f (a.py)"
    assert len(pyspy.readable("y" * 300)) < pyspy.LONGEST


def test_a_process_that_is_not_there_is_named() -> None:
    with pytest.raises(UserError, match="there is no process 4194999"):
        pyspy.dump(4194999, Path("unused"))
