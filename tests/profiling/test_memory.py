"""Memory over time: the peak and who holds it, on a CPU and from a GPU's history."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from fastdreamer.dynamics import norm
from fastdreamer.tools.profiling.memory_snapshot import (
    Change,
    changes_in_history,
    changes_in_trace,
    memory_picture,
    replay,
)

from .conftest import QUICK, SMALL


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
    ours = {"filename": norm.__file__, "line": 9, "name": "forward"}
    theirs = {"filename": "/x/fastdreamer/.venv/lib/torch/nn/modules/module.py", "line": 1, "name": "call"}
    entry = {"addr": 1, "size": 8, "time_us": 2000}
    entries = [
        entry | {"action": "alloc", "frames": [theirs, ours]},
        entry | {"action": "free_requested", "frames": []},
        entry | {"action": "free_completed", "frames": []},
    ]
    taken, given = changes_in_history(entries)
    assert (taken.by, taken.size_bytes, taken.at_ms) == ("forward (norm.py:9)", 8, 2.0)
    assert (given.by, given.size_bytes) == ("outside our code", -8)
