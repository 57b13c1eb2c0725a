"""The encoder's report, on a CPU and at a small size. On a GPU: python -m bench.suites encoder --memory-gb 12."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from fastdreamer_engines import LIMITS

from bench.suites import encoder
from bench.suites.command import main
from bench.suites.results import read


def report(folder: Path, *options: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    out = folder / "report.json"
    run = ["--config", "debug", "--device", "cpu", "--out", str(out), *options]
    assert main(["encoder", *run, "tokenizer.weights=random"]) == 0
    contents = read(out)
    return contents, contents["rows"]


def check(rows: list[dict[str, Any]]) -> None:
    """What holds for every row that was measured."""
    for row in rows:
        assert row["reason"] == "" and row["row"] == f"encoder {row['precision']} {row['batch']}x33"
        assert 0 < row["ms_per_clip"] == pytest.approx(row["median_us"] / 1e3 / row["batch"])
        assert row["relative_error"] <= LIMITS[row["precision"]]
        assert row["speedup"] > 0 and row["peak_share"] > 0 and row["gb_per_s"] > 0 and row["cache"] == "host"


@pytest.mark.long
def test_eager_layouts_are_measured_and_a_failing_backend_says_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["eager", "channels_last", "tensorrt"]
    contents, rows = report(tmp_path, "--batches", "1,2", "--precisions", "fp32,bf16", "--backends", ",".join(names))
    assert [(r["batch"], r["precision"], r["arm"]) for r in rows] == [
        (batch, precision, name) for batch in (1, 2) for precision in ("fp32", "bf16") for name in names
    ]
    check([row for row in rows if row["arm"] != "tensorrt"])
    for row in rows[2::3]:  # needs a GPU, or is not installed
        assert "tensorrt" in row["reason"] and "\n" not in row["reason"] and len(row["reason"]) < 250
        assert row["ms_per_clip"] == row["speedup"] == row["gb_per_s"] == 0
    errors = {r["precision"]: r["relative_error"] for r in rows if r["arm"] == "channels_last"}
    assert errors["bf16"] > 100 * errors["fp32"]
    assert rows[6]["flops"] == pytest.approx(2 * rows[0]["flops"], abs=2) and rows[0]["flops"] > 1e8
    machine = contents["machine"]
    assert machine["commit"] and "torch" in machine["versions"] and "diffusers" in machine["libraries"]
    assert {"copy_bytes_per_s", "matmul_fp32_flop_per_s", "matmul_bf16_flop_per_s"} == contents["probes"].keys()
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("fastest: batch 1 ")
    for batch in (1, 2):
        best = min((r for r in rows if r["batch"] == batch and not r["reason"]), key=lambda r: r["ms_per_clip"])
        assert f" batch {batch} {best['arm']} {best['precision']} {best['ms_per_clip']:.3g} ms" in last


def test_a_backend_that_is_wrong_is_reported_and_never_the_fastest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(LIMITS, "bf16", 1e-5)
    _, rows = report(tmp_path, "--batches", "1", "--precisions", "bf16", "--backends", "eager")
    assert rows[0]["reason"].startswith("off by 0.00") and "the limit is 1e-05" in rows[0]["reason"]
    assert rows[0]["ms_per_clip"] > 0
    assert capsys.readouterr().out.splitlines()[-1] == "fastest: none, every row failed"


def test_where_eager_does_not_fit_the_backend_is_timed_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("GPU is full")

    plain = encoder.eager_engine
    monkeypatch.setattr(encoder.Bench, "_engine", lambda self, name, spec, folder: plain(self.graph, spec))
    monkeypatch.setattr(encoder, "eager_engine", lambda graph, spec: encoder.Engine("eager", spec, full))
    _, rows = report(tmp_path, "--batches", "1", "--backends", "channels_last")
    assert rows[0]["ms_per_clip"] > 0 and rows[0]["speedup"] == 0 and rows[0]["reason"] == ""


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--backends", "eager,fast"], "fast: known are fp32"),
        (["--precisions", "fp8"], "fp8: known are fp32"),
        (["--memory-gb", "12"], "--memory-gb 12: the GPU here has"),
        (["--size", "64", "tokenizer.seed=-1"], "tokenizer.seed"),
    ],
)
def test_a_users_mistake_is_one_line_and_2(
    options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        main(["encoder", "--config", "debug", "--device", "cpu", *options])
    error = capsys.readouterr().err
    assert left.value.code == 2 and message in error and error.count("\n") == 1


def test_without_diffusers_the_command_that_installs_it_is_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(SystemExit) as left:
        main(["encoder", "--config", "debug", "--device", "cpu"])
    error = capsys.readouterr().err
    assert left.value.code == 2 and error.endswith("pip install diffusers\n") and error.count("\n") == 1


@pytest.mark.long
def test_torchs_compilers_are_within_their_limits(tmp_path: Path) -> None:
    _, rows = report(tmp_path, "--batches", "2", "--backends", "inductor,aot-inductor")
    assert [row["arm"] for row in rows] == ["inductor", "aot-inductor"]
    check(rows)
