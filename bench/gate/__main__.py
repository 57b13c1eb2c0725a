"""The gate: is anything slower, larger, or missing, against committed expectations?

    python -m bench.gate [--ci | --full] [--counts-only] [--only TEXT] [--device cpu|cuda] [--out FILE]
    python -m bench.gate --full --update

Counts are exact on every CPU. Times are those of a row over its reference arm, in pairs until three standard errors of
the median are at most 12 %; on a CPU or GPU without committed ratios they are printed, not gated. A time that is out
of its margin is measured again in new processes before it is red. Exit 0 green, 1 red, 2 user's mistake.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from bench.gate.expectations import (
    FOLDER,
    HOW,
    UPDATE,
    compare_counts,
    compare_names,
    compare_ratio,
    known_versions,
    load,
    save_new,
)
from bench.gate.measure import Measured, is_precise, measure
from bench.gate.rows import ROWS, GateRow
from bench.gate.tables import COPY, MATMUL
from bench.timing import copy_bandwidth, cpu_info, installed_versions, machine, matrix_rate, run_python, slug
from fastdreamer.errors import UserError

COPIED = {"cpu": 1 << 18, "cuda": 1 << 28}
"""Bytes whose copy gives the rate behind a floor: on a CPU they stay in its caches, as most of a small row's do."""
AGAIN = 2
"""New processes that may say that a time is within its margin after all."""
RUNS = 3
"""Processes behind an updated ratio; two behind updated counts alone."""
STEADY = 0.08
"""A row whose ratio differs between processes by more than this share of the median has counts only."""


def versions() -> str:
    """What baselines are keyed by: torch and Triton without the build."""
    found = installed_versions("torch", "triton")
    return ", ".join(f"{name} {found.get(name, 'none').partition('+')[0]}" for name in ("torch", "triton"))


def device_class(device: torch.device) -> str:
    """Machines whose ratios are the same: the GPU, or the CPU's make, family, model, widest vectors and cores."""
    about = machine()
    if device.type == "cuda":
        return slug(str(about["card"]))
    cpu = cpu_info()
    numbers = f" family {cpu['cpu family']} model {cpu['model']}" if {"cpu family", "model"} <= cpu.keys() else ""
    return slug(f"{about['processor']}{numbers} {torch.backends.cpu.get_cpu_capability()} {os.cpu_count()} cores")


def judge(found: Measured, device: torch.device, rows: Sequence[GateRow]) -> tuple[list[str], list[str]]:
    """(red lines, notes) of what was measured, against the committed files."""
    key, place = versions(), device_class(device)
    counts_file = FOLDER / ("counts.json" if device.type == "cpu" else f"{place}.json")
    red = [f"{name}: expected to be right, {reason}; not timed" for name, reason in found.wrong.items()]
    notes = [f"left out: {name} ({reason})" for name, reason in found.left_out.items() if reason != "runs with --full"]
    expected = load(counts_file, key, "counts")
    if expected is None:
        known = "; ".join(known_versions(counts_file)) or "nothing"
        line = f"{counts_file.name}: no expectations for {key} (it has {known}), nothing is gated: {UPDATE}"
        (red if device.type == "cpu" else notes).append(line)
        return red, notes
    elsewhere = {row.name: row.expected() for row in rows if row.expected and row.name in found.counts}
    expected |= {name: given for name, given in elsewhere.items() if given is not None}
    skipped = {*found.left_out, *found.wrong}
    red += compare_names(expected, found.counts, skipped, counts_file.name)
    red += compare_counts(expected, found.counts)
    if found.times:
        more_red, more_notes = judge_times(found, load(FOLDER / f"{place}.json", key, "ratios"), place)
        red, notes = red + more_red, notes + more_notes
    return red, notes


def judge_times(found: Measured, ratios: dict[str, Any] | None, place: str) -> tuple[list[str], list[str]]:
    """(red lines, notes) of the times alone; `ratios` are the device class's, None where it has none."""
    if ratios is None:
        return [], [f"times are not gated: {place} has no ratios for {versions()}; {UPDATE}"]
    skipped = {*found.left_out, *found.wrong}
    red, notes = compare_names(ratios, found.times, skipped, f"{place}.json"), list[str]()
    for name, timed in found.times.items():
        if (expected := ratios.get(name)) is None:
            continue  # new, which is red already, or known to be unsteady
        if not is_precise(timed) and not math.isnan(timed.error):
            notes.append(
                f"{name}: three standard errors are {3 * timed.error:.0%} after {timed.pairs} pairs: counts only"
            )
        elif line := compare_ratio(name, expected["ratio"], timed):
            red.append(line)
    return red, notes


def measure_in_new_process(arguments: Sequence[str], quiet: bool) -> Measured:
    """The same in a process of its own; UserError if it fails."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "measured.json"
        words = ("-m", "bench.gate", *arguments, "--measure", str(out))
        done = run_python(*words, quiet=quiet)
        if done.returncode or not out.exists():
            raise UserError(f"{' '.join(words)} failed with {done.returncode}")
        return Measured.load(out)


def confirm(red: list[str], found: Measured, chosen: argparse.Namespace, device: torch.device) -> list[str]:
    """The red lines without times that a new process finds to be within their margin."""
    ratios = load(FOLDER / f"{device_class(device)}.json", versions(), "ratios") or {}
    kept = []
    for line in red:
        name = line.partition(": time over its reference")[0]
        if name == line or name not in found.times:
            kept.append(line)
            continue
        for _ in range(AGAIN):
            print(f"measuring {name} again in a new process", flush=True)
            again = measure_in_new_process(["--full", "--row", name, "--device", chosen.device], quiet=True)
            if name in again.times and not compare_ratio(name, ratios[name]["ratio"], again.times[name]):
                found.times[name] = again.times[name]
                break
        else:
            kept.append(line)
    return kept


def update(chosen: argparse.Namespace, device: torch.device) -> list[str]:
    """Measures in several processes and writes new files beside the old; returns what to do with them.

    Raises:
        UserError: if a row is wrong, or a count is not the same in two runs.
    """
    arguments = ["--full", "--device", chosen.device, *(["--counts-only"] if chosen.counts_only else [])]
    runs = [measure_in_new_process(arguments, quiet=False) for _ in range(2 if chosen.counts_only else RUNS)]
    if wrong := {name: reason for run in runs for name, reason in run.wrong.items()}:
        raise UserError("; ".join(f"{name}: {reason}" for name, reason in wrong.items()))
    for name, counts in runs[0].counts.items():
        if differ := [line for run in runs[1:] for line in compare_counts({name: counts}, {name: run.counts[name]})]:
            raise UserError(f"not the same in two runs, so it cannot be gated: {differ[0]}")
    elsewhere = {row.name for row in ROWS if row.expected}
    kept = {name: given for name, given in runs[0].counts.items() if name not in elsewhere}
    place, is_cpu = device_class(device), device.type == "cpu"
    counts_file, ratios_file = FOLDER / ("counts.json" if is_cpu else f"{place}.json"), FOLDER / f"{place}.json"
    sections: dict[Path, dict[str, Any]] = {counts_file: {"counts": kept}}
    if not chosen.counts_only:
        about = {name: value for name, value in machine().items() if name in ("processor", "card", "cores", "commit")}
        rates = {
            COPY: copy_bandwidth(COPIED[device.type], device.type),
            MATMUL: matrix_rate(1024, torch.float32, device.type),
        }
        sections.setdefault(ratios_file, {}).update(machine=about, rates=rates, ratios=steady(runs))
    written = [save_new(path, versions(), found) for path, found in sections.items()]
    return [f"look at it, then: mv {new} {new.with_name(new.name.replace('.new.json', '.json'))}" for new in written]


def steady(runs: Sequence[Measured]) -> dict[str, Any]:
    """The median ratio of every row over the processes; None for a row that differs too much between them."""
    found: dict[str, Any] = {}
    unsteady = {row.name for row in ROWS if not row.is_steady}
    for name in runs[0].times:
        times = [run.times[name] for run in runs]
        ratio = statistics.median(timed.ratio for timed in times)
        spread = max(abs(math.log(timed.ratio / ratio)) for timed in times)
        middle = min(times, key=lambda timed: abs(timed.ratio - ratio))
        is_steady = spread <= STEADY and all(map(is_precise, times)) and name not in unsteady
        print(f"{name:32} {ratio:.3f}, up to {spread:.1%} apart: {'gated' if is_steady else 'counts only'}")
        entry = {"ratio": round(ratio, 4), "spread": round(spread, 4), "seconds": middle.seconds}
        found[name] = entry | {"rate": round(middle.rate, 3), "unit": middle.unit} if is_steady else None
    return found


def main(given: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.gate", description=(__doc__ or "").split("\n")[0])
    add = parser.add_argument
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--ci", action="store_true", help="the short rows alone")
    which.add_argument("--full", action="store_true", help="all rows (the default)")
    add("--counts-only", action="store_true", help="nothing is timed")
    add("--only", default="", help="rows whose name contains this; missing rows are then not looked for")
    add("--device", choices=("cpu", "cuda"), default="cpu")
    add("--out", type=Path, help="JSON file for what was measured")
    add("--update", action="store_true", help="write new expectations beside the old")
    add("--row", default="", help=argparse.SUPPRESS)  # exactly this one, for a new process
    add("--measure", type=Path, help=argparse.SUPPRESS)  # write what was measured there, and judge nothing
    chosen = parser.parse_args(given)
    try:
        return _run(chosen)
    except UserError as error:
        parser.exit(2, f"bench.gate: {error}\n")


def _run(chosen: argparse.Namespace) -> int:
    if os.environ.get("TRITON_INTERPRET", "0") not in ("", "0"):
        raise UserError("TRITON_INTERPRET is set: the interpreter's times mean nothing; unset it")
    if chosen.device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: torch sees no GPU here")
    if chosen.update and (chosen.ci or chosen.only):
        raise UserError("--update writes whole files: leave --ci and --only out")
    device = _set_up(chosen.device)
    if chosen.update:
        print("\n".join(update(chosen, device)))
        return 0
    rows = [row for row in ROWS if (row.name == chosen.row if chosen.row else chosen.only in row.name)]
    if not rows:
        raise UserError(f"no row contains {chosen.only!r}; there are {', '.join(row.name for row in ROWS)}")
    found = measure(rows, device, is_full=not chosen.ci, is_timed=not chosen.counts_only)
    if chosen.measure or chosen.out:
        found.save(chosen.measure or chosen.out)
    if chosen.measure:
        return 0
    if len(rows) < len(ROWS):
        found.left_out |= {row.name: "runs with --full" for row in ROWS if row not in rows}
    red, notes = judge(found, device, rows)
    red = confirm(red, found, chosen, device)
    about = f"{versions()}, {device_class(device)}"
    done = f"gate: {len(found.counts)} rows counted, {len(found.times)} timed, {len(red)} red ({about})"
    print("\n".join([*notes, *(f"RED {line}" for line in red), *([HOW] if red else []), done]))
    return 1 if red else 0


def _set_up(name: str) -> torch.device:
    """One thread, and on a CPU deterministic algorithms as in training."""
    if name == "cpu":
        torch.set_num_threads(1)
        torch.use_deterministic_algorithms(True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    return torch.device(name)


if __name__ == "__main__":
    raise SystemExit(main())
