"""`--tool memory`: what is allocated while steps run, when the most is held, and by what.

On a GPU torch's own snapshot is written too, a pickle because torch.cuda.memory's viewer reads that; nothing here
reads it back.
"""

from __future__ import annotations

import gzip
import json
import os
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fastdreamer_kernels
import torch

import fastdreamer
from fastdreamer.plotting.charts import stacked_picture
from fastdreamer.plotting.svg import COLOURS
from fastdreamer.system.files import write_atomic
from fastdreamer.system.progress import memory_gb
from fastdreamer.system.ranges import RANGES
from fastdreamer.tools.profiling.profiled_work import ProfiledSteps, profiled_steps
from fastdreamer.tools.profiling.torch_trace import recorder


@dataclass(frozen=True)
class Change:
    """A block is taken (`size_bytes` above 0) or given back (below 0), at a time in ms; `by` says by what."""

    at_ms: float
    address: int
    size_bytes: int
    by: str = ""


@dataclass(frozen=True)
class Held:
    """What blocks of one origin hold at one time."""

    by: str
    size_bytes: int
    blocks: int


@dataclass(frozen=True)
class Timeline:
    """Bytes over time; 0 is what was held when the recording began.

    Attributes:
        times_ms: time of every change, from the first one on.
        held: bytes after each change, by origin.
        total: their sum, less what was given back that had been taken before.
        peak: index of the highest total.
        at_peak: who holds it, the largest first.
    """

    times_ms: list[float]
    held: list[dict[str, int]]
    total: list[int]
    peak: int
    at_peak: list[Held]

    @property
    def peak_bytes(self) -> int:
        """The highest total."""
        return self.total[self.peak] if self.total else 0


def replay(changes: Iterable[Change], points: int = 600) -> Timeline:
    """Plays changes in order of time; of the held bytes at most about `points` states are kept, the peak among them."""
    ordered = sorted(changes, key=lambda change: change.at_ms)
    totals, total = [], 0
    for change in ordered:
        total += change.size_bytes
        totals.append(total)
    peak = max(range(len(totals)), key=totals.__getitem__, default=0)
    every = max(1, len(ordered) // points)
    alive: dict[int, Change] = {}
    held: Counter[str] = Counter()
    times: list[float] = []
    states: list[dict[str, int]] = []
    kept: list[int] = []
    at_peak: list[Held] = []
    begin = ordered[0].at_ms if ordered else 0.0
    for number, change in enumerate(ordered):
        if change.size_bytes > 0:
            alive[change.address] = change
            held[change.by] += change.size_bytes
        elif (taken := alive.pop(change.address, None)) is not None:
            held[taken.by] -= taken.size_bytes
        if number == peak:
            at_peak = _by_origin(alive.values())
        if number % every == 0 or number == peak:
            times.append(change.at_ms - begin)
            states.append({by: size for by, size in held.items() if size})
            kept.append(totals[number])
    return Timeline(times, states, kept, max(range(len(kept)), key=kept.__getitem__, default=0), at_peak)


def _by_origin(blocks: Iterable[Change]) -> list[Held]:
    sizes: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    for block in blocks:
        sizes[block.by] += block.size_bytes
        counts[block.by] += 1
    return [Held(by, size, counts[by]) for by, size in sizes.most_common()]


TOP = 10
MIB = 2**20
ENTRIES = 1_000_000  # limit of the GPU's history
FREED = "free_completed"
OURS = tuple(str(Path(package.__file__ or "").parent) + os.sep for package in (fastdreamer, fastdreamer_kernels))
"""The beginnings of our files' names; a clone is often called fastdreamer too, with torch inside it."""


def memory(work: ProfiledSteps, warmup: int, steps: int, stem: Path) -> dict[str, Any]:
    """Records `steps` steps after `warmup` plain ones; writes STEM.json, STEM.svg and, on a GPU, STEM.pickle.

    Returns:
        peak_mib beyond what was held before (weights, optimiser, averages), held_before_mib (on a GPU; on a CPU
        resident_mib, the whole process), and `at_peak`: who holds it.
    """
    profiled_steps(work, warmup)
    files = {"picture": stem.with_suffix(".svg"), "numbers": stem.with_suffix(".json")}
    if work.device.type == "cuda":
        files["snapshot (drop it on https://pytorch.org/memory_viz)"] = stem.with_suffix(".pickle")
        changes, numbers = _on_gpu(work, steps, stem.with_suffix(".pickle"))
    else:
        changes, numbers = _on_cpu(work, steps), {"resident_mib": memory_gb() * 1024}
    timeline = replay(changes)
    numbers = {"peak_mib": timeline.peak_bytes / MIB} | numbers
    rows = [{"made by": h.by, "mib": h.size_bytes / MIB, "blocks": h.blocks} for h in timeline.at_peak]
    write_atomic(files["picture"], memory_picture(timeline, f"{work.name}: {work.about}").encode())
    content = {"times_ms": timeline.times_ms, "total_bytes": timeline.total, "at_peak": rows}
    write_atomic(files["numbers"], json.dumps(content | numbers).encode())
    return numbers | {"at_peak": rows[:TOP], "files": files}


def memory_picture(timeline: Timeline, title: str) -> str:
    """An SVG file: MiB over time by what stands before the origins' colon; the largest have a layer each."""
    states = []
    for state in timeline.held:
        states.append(Counter[str]())
        for by, size in state.items():
            states[-1][by.partition(":")[0]] += size
    most: Counter[str] = Counter()
    for groups in states:
        most |= groups  # the larger of both
    names = [name for name, _ in most.most_common(len(COLOURS))]
    layers = {name: [groups[name] / MIB for groups in states] for name in names}
    if len(most) > len(names):
        layers["others"] = [sum(size for name, size in groups.items() if name not in names) / MIB for groups in states]
    peak = timeline.times_ms and (timeline.times_ms[timeline.peak], f"peak {timeline.peak_bytes / MIB:.1f} MiB")
    return stacked_picture(timeline.times_ms, layers, peak or None, title, "milliseconds", "MiB")


def _on_cpu(work: ProfiledSteps, steps: int) -> list[Change]:
    """Read changes from the profiler's trace, where allocations carry their address."""
    with recorder(work, steps, memory=True) as profiler:
        profiled_steps(work, 1 + steps, after=profiler.step)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "trace.json.gz"
        profiler.export_chrome_trace(str(file))
        with gzip.open(file, "rt", encoding="utf-8") as stream:
            return list(changes_in_trace(json.load(stream)["traceEvents"]))


def changes_in_trace(events: list[dict[str, Any]]) -> Iterator[Change]:
    """Allocations of a chrome trace, each with the named range and the operator that it lies in."""
    wanted = [e for e in events if e.get("name") == "[memory]" or e.get("cat") in ("cpu_op", "user_annotation")]
    wanted.sort(key=lambda e: (e["ts"], -e.get("dur", 0.0)))
    open_ones: dict[Any, list[dict[str, Any]]] = {}
    for event in wanted:
        stack = open_ones.setdefault(event["tid"], [])
        while stack and stack[-1]["ts"] + stack[-1]["dur"] < event["ts"]:
            stack.pop()
        if event["name"] != "[memory]":
            stack.append(event)
            continue
        names = [outer["name"] for outer in stack]
        within = next((name for name in reversed(names) if name in RANGES), "outside the ranges")
        operator = next((name for name in names if name not in RANGES and not name.startswith("Profiler")), "")
        detail = event["args"]
        size = int(detail["Bytes"])
        yield Change(event["ts"] / 1e3, int(detail["Addr"]), size, f"{within}: {operator}" if operator else within)


def _on_gpu(work: ProfiledSteps, steps: int, file: Path) -> tuple[list[Change], dict[str, Any]]:
    """Read changes from the allocator's own history."""
    before = torch.cuda.memory_allocated(work.device)
    torch.cuda.reset_peak_memory_stats(work.device)
    torch.cuda.memory._record_memory_history(max_entries=ENTRIES)
    try:
        profiled_steps(work, steps)
        torch.cuda.memory._dump_snapshot(str(file))
        traces = torch.cuda.memory._snapshot()["device_traces"]
    finally:
        torch.cuda.memory._record_memory_history(enabled=None)
    numbers = {
        "held_before_mib": before / MIB,
        "allocated_mib": torch.cuda.max_memory_allocated(work.device) / MIB,
        "reserved_mib": torch.cuda.max_memory_reserved(work.device) / MIB,
    }
    device = work.device.index or 0
    return list(changes_in_history(traces[device] if device < len(traces) else [])), numbers


def changes_in_history(entries: list[Mapping[str, Any]]) -> Iterator[Change]:
    """Allocations of a snapshot's trace, each with the innermost line of ours that made it."""
    for entry in entries:
        if entry["action"] not in ("alloc", FREED):
            continue
        ours = next((f for f in entry.get("frames", ()) if f["filename"].startswith(OURS)), None)
        name = f"{ours['name']} ({Path(ours['filename']).name}:{ours['line']})" if ours else "outside our code"
        size = -entry["size"] if entry["action"] == FREED else entry["size"]
        yield Change(entry["time_us"] / 1e3, entry["addr"], size, name)
