"""The report of imagined steps, on a CPU and tiny. On a GPU: python -m bench.suites imagination --memory-gb 12."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from bench.phases import models
from bench.suites import imagination
from bench.suites.command import main
from bench.suites.imagination import Bench, RolloutRow, verdicts, weight_bytes
from bench.suites.results import read
from fastdreamer.config import load_config
from fastdreamer.device import Backend
from fastdreamer.imagination.program import Program

SMALL = ["dynamics.layers=2", "imagination.horizon=2", "precision=fp32"]


def report(folder: Path, *options: str) -> list[dict[str, Any]]:
    out = folder / "report.json"
    assert main(["imagination", "--device", "cpu", "--out", str(out), *options, *SMALL]) == 0
    contents = read(out)
    assert contents["machine"]["commit"] and contents["probes"]["copy_bytes_per_s"] > 0
    rows: list[dict[str, Any]] = contents["rows"]
    return rows


def test_every_arm_is_timed_beside_the_plain_rollout(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = report(tmp_path, "--rollouts", "1,3", "dynamics.time_every=1")  # a commit is then a pass but for its end
    arms = ["plain", "program", "merged"]
    assert [(r["rollouts"], r["arm"]) for r in rows] == [(n, arm) for n in (1, 3) for arm in arms]
    for row in rows:
        assert (
            row["reason"] == "" and row["ms_per_step"] == pytest.approx(row["median_us"] / 1e3) and row["speedup"] > 0
        )
        assert row["copy_share"] == pytest.approx(row["floor_ms"] / row["ms_per_step"]) and row["launches"] > 100
    plain, program, merged = rows[:3]
    assert merged["floor_bytes"] == plain["floor_bytes"] == program["floor_bytes"]  # K passes do
    assert 0.7 < merged["launches"] / program["launches"] < 0.9
    assert "arm" in capsys.readouterr().out
    assert main(["imagination", "--device", "cpu", "--rollouts", "1", "--arms", "plain", *SMALL]) == 0
    assert "wrote" not in capsys.readouterr().out


def test_the_weights_of_a_pass_are_all_but_the_look_ups_in_the_precision_of_the_run() -> None:
    world, _ = models(load_config("debug", SMALL), torch.device("cpu"))
    sizes = {name: parameter.numel() for name, parameter in world.named_parameters()}
    tables = sum(n for name, n in sizes.items() if name in _tables())
    products = sum(n for name, n in sizes.items() if name.split(".")[-2] in ("qkv", "out", "gate_up", "down"))
    products += sum(n for name, n in sizes.items() if "readout" in name or "spatial" in name)
    whole = sum(sizes.values()) - tables
    assert tables > 0 and products > whole / 2
    assert weight_bytes(world, "fp32") == 4 * whole
    assert weight_bytes(world, "bf16") == 4 * whole - 2 * products


def _tables() -> tuple[str, ...]:
    return ("tokens.actions.table.weight", "tokens.signal.weight", "tokens.step_size.weight")


def test_launches_of_a_step_do_not_depend_on_the_horizon() -> None:
    config = load_config("debug", [*SMALL, "imagination.horizon=3"])
    bench = Bench(config, Backend(torch.device("cpu"), "fp32"), 1e9, 2)
    for name in ("plain", "merged"):
        counts = [bench._launches(imagination.ARMS[name], 2, horizon) for horizon in (1, 2, 4)]
        assert counts[2] - counts[1] == 2 * (counts[1] - counts[0])


def test_an_arm_that_fails_says_why_and_the_others_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("GPU is full\nand so on")

    monkeypatch.setattr(Program, "__call__", full)
    rows = report(tmp_path, "--rollouts", "1")
    assert [r["reason"] for r in rows] == ["", *["OutOfMemoryError: GPU is full and so on"] * 2]
    assert rows[1]["speedup"] == rows[1]["gb_per_s"] == 0


def test_verdicts_are_given_on_what_was_promised() -> None:
    def row(arm: str, rollouts: int, ms: float, reason: str = "") -> RolloutRow:
        return RolloutRow("", arm, "warm", 1e3 * ms, 1, 0, None, 0, 0, rollouts, ms, reason=reason)

    rows = [row("merged", 1, 4), row("captured", 1, 2), row("merged", 64, 4), row("captured", 64, 3)]
    lines = verdicts([*rows, row("merged", 256, 9), row("captured", 256, 0, "out of memory")])
    assert [line[:5] for line in lines] == ["holds", "FAILS"]
    assert lines[1] == "FAILS: captured step over eager at 64 dreams 1.33, at least 2"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--arms", "plain,fast"], "--arms fast: known are plain, program"),
        (["--memory-gb", "12"], "--memory-gb 12: the GPU here has"),
        (["--config", "debugg"], "did you mean debug?"),
    ],
)
def test_a_users_mistake_is_one_line_and_2(
    options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        main(["imagination", "--device", "cpu", *options])
    error = capsys.readouterr().err
    assert left.value.code == 2 and message in error and error.count("\n") == 1
