"""The gate on recorded rows, one regression of each kind; nothing is timed."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.gate import __main__ as gate
from bench.gate.__main__ import device_class, judge, main, steady, versions
from bench.gate.expectations import SCHEMA, load
from bench.gate.measure import Measured, is_precise
from bench.gate.rows import ROWS, Place

from .recorded import row, timed

CPU = torch.device("cpu")
STEP = {"launches": 760, "bytes": 41_000_000, "flops": 71_000_000, "syncs": 0, "peak_bytes": 3_000_000, "left_bytes": 0}
CODE = {"registers": 72, "stack_bytes": 0, "load_bits": 128}
GRAPHS = {"graphs": 2, "graph_breaks": 0, "recompiles": 0}
COUNTS = {
    "step": STEP,
    "code": CODE,
    "graphs": GRAPHS,
    "start": {"own_modules": 3, "packages": 0},
    "core": {"megabytes": 300},
    "model": {"world": 739_792},
    "plan": {"planned_reserved_bytes": 10_000_000},
}


@pytest.fixture
def recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Baselines of COUNTS and one ratio of 0.5, in the place of the committed ones."""
    monkeypatch.setattr(gate, "FOLDER", tmp_path)
    ratios = {"step": {"ratio": 0.5}, "code": None}

    def write(name: str, **sections: Any) -> None:
        contents = {"schema": SCHEMA, "versions": {versions(): sections}}
        (tmp_path / f"{name}.json").write_text(json.dumps(contents))

    write("counts", counts=COUNTS)
    write(device_class(CPU), ratios=ratios)
    return tmp_path


def found(ratio: float = 0.5, error: float = 0.02, **changes: dict[str, int]) -> Measured:
    counts = {name: {**row, **changes.get(name, {})} for name, row in COUNTS.items()}
    return Measured(counts=counts, times={"step": timed(ratio, error), "code": timed(3.0)})


def test_what_is_as_expected_is_green(recorded: Path) -> None:
    assert judge(found(), CPU, ROWS) == ([], [])
    within = found(0.5 * 1.11, step={"peak_bytes": 3_140_000}, plan={"planned_reserved_bytes": 9_600_000})
    assert judge(within, CPU, ROWS) == ([], [])


@pytest.mark.parametrize(
    ("row", "change", "line"),
    [
        ("step", {"launches": 761}, "step: launches expected 760, measured 761 (+1, 1.001x), margin exact: more"),
        ("step", {"launches": 759}, "step: launches expected 760, measured 759 (-1, 0.999x), margin exact: less"),
        ("step", {"bytes": 41_000_004}, "step: bytes expected 41,000,000, measured 41,000,004 (+4"),
        ("step", {"flops": 142_000_000}, "step: flops expected 71,000,000, measured 142,000,000"),
        ("step", {"syncs": 1}, "step: syncs expected 0, measured 1 (+1), margin exact: more"),
        ("step", {"left_bytes": 4}, "step: left_bytes expected 0, measured 4 (+4), margin exact: more"),
        (
            "step",
            {"peak_bytes": 3_450_000},
            "step: peak_bytes expected 3,000,000, measured 3,450,000 (+450,000, 1.150x)",
        ),
        (
            "step",
            {"peak_bytes": 2_800_000},
            "step: peak_bytes expected 3,000,000, measured 2,800,000 (-200,000, 0.933x)",
        ),
        ("code", {"registers": 73}, "code: registers expected 72, measured 73"),
        ("code", {"stack_bytes": 8}, "code: stack_bytes expected 0, measured 8 (+8), margin exact: more"),
        ("code", {"load_bits": 16}, "code: load_bits expected 128, measured 16 (-112, 0.125x), margin exact: less"),
        ("graphs", {"graph_breaks": 1}, "graphs: graph_breaks expected 0, measured 1"),
        ("graphs", {"recompiles": 2}, "graphs: recompiles expected 0, measured 2"),
        ("start", {"own_modules": 4}, "start: own_modules expected 3, measured 4"),
        ("core", {"megabytes": 301}, "core: megabytes expected 300, measured 301"),
        ("model", {"world": 739_793}, "model: world expected 739,792, measured 739,793"),
        ("plan", {"planned_reserved_bytes": 10_600_000}, "plan: planned_reserved_bytes expected 10,000,000, measured"),
        ("step", {"renamed": 1}, "step: renamed expected nothing, measured 1, margin exact: update the baseline"),
    ],
)
def test_one_regression_of_each_kind_is_red_in_one_line(
    recorded: Path, row: str, change: dict[str, int], line: str
) -> None:
    (red,), notes = judge(found(**{row: change}), CPU, ROWS)
    assert red.startswith(line) and "margin" in red and "\n" not in red and notes == []


@pytest.mark.parametrize(
    ("ratio", "line"),
    [
        (0.5 * 1.25, "measured 0.625 +- 0.013 (1.25x, 40 pairs), margin 1.12x: slower"),
        (0.5 / 1.25, "measured 0.400 +- 0.008 (0.80x, 40 pairs), margin 1.12x: faster; update the baseline"),
    ],
)
def test_slower_and_faster_are_red(recorded: Path, ratio: float, line: str) -> None:
    (red,), _ = judge(found(ratio), CPU, ROWS)
    assert red.startswith("step: time over its reference expected 0.500, ") and line in red


def test_a_time_that_is_not_precise_is_printed_and_not_gated(recorded: Path) -> None:
    red, (note,) = judge(found(5.0, error=0.041), CPU, ROWS)
    assert red == [] and note == "step: three standard errors are 12% after 40 pairs: counts only"
    assert is_precise(timed(1.0, 0.04)) and not is_precise(timed(1.0, 0.041))


def test_missing_and_new_rows_are_red(recorded: Path) -> None:
    measured = found()
    del measured.counts["model"], measured.times["step"]
    measured.counts["other"] = measured.counts.pop("plan")
    red, _ = judge(measured, CPU, ROWS)
    starts = ["model: expected in counts.json, measured nothing", "plan: expected in counts.json, measured nothing"]
    starts += ["other: expected nothing in counts.json, measured a new row"]
    starts += [f"step: expected in {device_class(CPU)}.json, measured nothing"]
    assert [line.startswith(start) for line, start in zip(red, starts, strict=True)] == [True] * 4
    measured.left_out = dict.fromkeys(("model", "plan", "step"), "runs with --full")
    assert [line.partition(":")[0] for line in judge(measured, CPU, ROWS)[0]] == ["other"]


def test_unknown_versions_are_red_and_an_unknown_cpu_is_a_note(recorded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (recorded / f"{device_class(CPU)}.json").unlink()
    red, (note,) = judge(found(9.0), CPU, ROWS)
    assert red == [] and note.startswith("times are not gated: ") and device_class(CPU) in note
    monkeypatch.setattr(gate, "versions", lambda: "torch 9.9.9, triton none")
    (line,), _ = judge(found(), CPU, ROWS)
    assert line.startswith("counts.json: no expectations for torch 9.9.9, triton none (it has torch 2.")


def test_a_damaged_baseline_is_the_users_and_names_the_file(tmp_path: Path) -> None:
    for text in ("{", '{"schema": 0, "versions": {}}', "[]", '{"schema": 1, "versions": {"k": 3}}'):
        (tmp_path / "counts.json").write_text(text)
        with pytest.raises(gate.UserError, match=r"counts.json cannot be read .*take it from git") as caught:
            load(tmp_path / "counts.json", "k", "counts")
        assert "\n" not in str(caught.value)


# --- new expectations


def test_a_ratio_that_differs_between_processes_is_not_gated() -> None:
    runs = [Measured(times={"a": timed(r), "b": timed(s), "c": timed(1.0, e)}) for r, s, e in
            ((0.50, 1.0, 0.01), (0.51, 1.2, 0.01), (0.49, 0.9, 0.09))]  # fmt: skip
    found = steady(runs)
    assert found["a"] == {"ratio": 0.5, "spread": 0.0202, "seconds": 0.01, "rate": 100.0, "unit": "steps"}
    assert found["b"] is None and found["c"] is None


def update(monkeypatch: pytest.MonkeyPatch, runs: list[Measured]) -> list[str]:
    left = list(runs)
    monkeypatch.setattr(gate, "measure_in_new_process", lambda *_, **__: left.pop(0))
    return gate.update(argparse.Namespace(device="cpu", counts_only=len(runs) == 2), CPU)


def test_an_update_writes_beside_the_old_file_and_keeps_other_versions(
    recorded: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = json.loads((recorded / "counts.json").read_text())
    old["versions"]["torch 1.0, triton none"] = {"counts": {}}
    (recorded / "counts.json").write_text(json.dumps(old))
    lines = update(monkeypatch, [found(0.25, step={"launches": 700})] * 5)
    new, place = recorded / "counts.new.json", device_class(CPU)
    assert lines[0] == f"look at it, then: mv {new} {recorded / 'counts.json'}" and len(lines) == 2
    assert json.loads((recorded / "counts.json").read_text()) == old
    assert load(new, versions(), "counts") == COUNTS | {"step": STEP | {"launches": 700}}
    assert load(new, "torch 1.0, triton none", "counts") == {}
    ratios = load(recorded / f"{place}.new.json", versions(), "ratios")
    assert ratios is not None and ratios["step"]["ratio"] == 0.25


def test_a_count_that_changes_from_run_to_run_cannot_be_updated(
    recorded: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(gate.UserError, match="not the same in two runs.*step: launches expected 760, measured 761"):
        update(monkeypatch, [found(), found(step={"launches": 761})])
    assert not list(recorded.glob("*.new.json"))


def test_a_red_time_is_measured_again_in_a_new_process(recorded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured, chosen = found(0.7), argparse.Namespace(device="cpu")
    red, _ = judge(measured, CPU, ROWS)
    for answers, left in (([0.7, 0.7], red), ([0.7, 0.51], []), ([0.5], [])):
        given = list(answers)
        again = lambda *_, **__: Measured(times={"step": timed(given.pop(0))})  # noqa: E731, B023
        monkeypatch.setattr(gate, "measure_in_new_process", again)
        assert gate.confirm(["x: other"] + red, measured, chosen, CPU) == ["x: other"] + left and given == []


# --- the command


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "no such row"], "no row contains 'no such row'; there are imports"),
        (["--update", "--ci"], "--update writes whole files"),
        *([] if torch.cuda.is_available() else [(["--device", "cuda"], "torch sees no GPU here")]),
    ],
)
def test_a_users_mistake_is_one_line_and_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(SystemExit) as left:
        main(arguments)
    error = capsys.readouterr().err
    assert left.value.code == 2 and message in error and error.count("\n") == 1


def test_the_command_is_green_or_red_and_says_so_last(
    recorded: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(gate, "_set_up", torch.device)
    rows = [row(name, counts=lambda name=name: COUNTS[name], ours=None) for name in COUNTS]
    monkeypatch.setattr(gate, "ROWS", rows)
    assert main(["--counts-only"]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == f"gate: 7 rows counted, 0 timed, 0 red ({versions()}, {device_class(CPU)})"
    monkeypatch.setattr(gate, "ROWS", rows[1:])
    assert main(["--counts-only"]) == 1
    red = [line for line in capsys.readouterr().out.splitlines() if line.startswith("RED ")]
    assert len(red) == 1 and red[0].startswith("RED step: expected in counts.json, measured nothing")


def test_rows_have_names_of_their_own_and_the_committed_counts_are_theirs() -> None:
    names = [one.name for one in ROWS]
    assert len(set(names)) == len(names)
    for path in (gate.FOLDER).glob("*.json"):
        for sections in json.loads(path.read_text())["versions"].values():
            for section in ("counts", "ratios"):
                assert set(sections.get(section, {})) <= set(names), path


def test_a_place_gives_the_small_configuration_whatever_the_preset_says(tmp_path: Path) -> None:
    config = Place(CPU, tmp_path).config("dynamics.dim=16")
    assert config.dynamics.dim == 16 and config.dynamics.layers == 2 and config.phase1.optimizer == "adamw"
