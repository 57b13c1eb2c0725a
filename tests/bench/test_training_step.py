"""The report of optimisation steps, on a CPU and tiny; on a GPU: python -m bench.suites training_step."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from bench.phases import made_up_phase
from bench.suites import training_step
from bench.suites.command import main
from bench.suites.results import read
from bench.suites.training_step import StepRow, crop_flops, verdicts
from fastdreamer.config import load_config
from fastdreamer.device import Backend
from fastdreamer.dynamics.attention import Attention
from fastdreamer.training.step import MicroBatches

BACKEND = Backend(torch.device("cpu"), "fp32")
SMALL = ["dynamics.layers=2", "imagination.horizon=2", "precision=fp32"]


def report(folder: Path, *options: str) -> list[dict[str, Any]]:
    out = folder / "report.json"
    assert main(["training_step", "--device", "cpu", "--out", str(out), *options, *SMALL]) == 0
    contents = read(out)
    assert contents["machine"]["configuration"]["dynamics"]["layers"] == 2 and contents["machine"]["commit"]
    assert {"copy_bytes_per_s", "matmul_flop_per_s"} == contents["probes"].keys()
    rows: list[dict[str, Any]] = contents["rows"]
    for row in rows:
        assert row["reason"] == "" and row["steps_per_s"] == pytest.approx(1e3 / row["ms_per_step"])
        assert row["ms_per_step"] > 0 and (row["mfu"] > 0) == (row["phase"] == 1)
    return rows


def test_every_phase_is_timed_and_sizes_of_phase_one_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = report(tmp_path, "--crops", "2,8")
    wanted = [(1, "eager", 4), (1, "naive", 4), (2, "eager", 4), (3, "eager", 4), (1, "eager", 2), (1, "eager", 8)]
    assert [(r["phase"], r["arm"], r["crops"]) for r in rows] == wanted
    flops = {r["crops"]: r["flops"] for r in rows if r["phase"] == 1}
    assert flops[8] == 2 * flops[4] == 4 * flops[2] > 0
    naive, eager = rows[1], rows[0]
    assert naive["speedup"] == pytest.approx(eager["ms_per_step"] / naive["ms_per_step"])
    printed = capsys.readouterr().out
    assert "phase 1, naive over eager" in printed and printed.count("at least") == 1
    assert "largest phase-1 batch in one piece, eager: 8 of those asked for" in printed


@pytest.mark.parametrize("overrides", [(), ("dynamics.soft_cap=9", "dynamics.context=2", "phase1.recompute=true")])
def test_a_steps_flops_are_the_sum_over_its_crops(overrides: tuple[str, ...]) -> None:
    config = load_config("debug", ["forcing.boot_fraction=0.5", *overrides])
    flow, boot = crop_flops(config, BACKEND)
    found = []
    for crops in (6, 12):
        phase = made_up_phase(
            replace(config, phase1=replace(config.phase1, batch_size=crops, recompute=False)), 1, BACKEND
        )
        for module in phase.model.modules():
            if isinstance(module, Attention):
                module.is_fused = False
        work = phase.draw()
        phase.model.get_submodule("world.tokens.actions").requires_grad_(False)
        with FlopCounterMode(display=False) as counter:
            phase.loss(work, 0)[0].backward()
        found.append(counter.get_total_flops())
    assert found[1] - found[0] == 3 * flow + 3 * boot
    assert 0 <= 2 * found[0] - found[1] < flow / 20  # what is done once a step
    assert 1.6 < boot / flow < 1.7  # five passes' worth for three


def test_flops_are_six_a_weight_and_token_and_attention_besides() -> None:
    config = load_config("debug", [])
    world, shape = made_up_phase(config, 1, BACKEND).world, config.dynamics  # type: ignore[attr-defined]
    seen = 0  # weights, each times the tokens of a step that it sees
    for name, module in world.named_modules():
        if isinstance(module, torch.nn.Linear):
            tokens = world.world_tokens - shape.registers * name.startswith("transformer.blocks.0.")
            is_last = name.startswith(f"transformer.blocks.{shape.layers - 1}.") and not name.endswith("qkv")
            seen += module.weight.numel() * (tokens if "blocks" in name and not is_last else shape.spatial_tokens)
    flow, _ = crop_flops(config, BACKEND)
    assert 0.8 < 6 * seen * shape.window / flow < 1


def test_what_does_not_fit_in_one_piece_ends_its_sizes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = MicroBatches._gradients

    def small_gpu(micro_batches: MicroBatches, step: int) -> Any:
        if micro_batches.train.batch_size / micro_batches.micro_batches > 4:
            raise torch.OutOfMemoryError("GPU is full")
        return plain(micro_batches, step)

    monkeypatch.setattr(MicroBatches, "_gradients", small_gpu)
    out = tmp_path / "report.json"
    options = ["--device", "cpu", "--phases", "1", "--arms", "eager", "--crops", "4,8,16", "--out", str(out)]
    assert main(["training_step", *options, "phase1.batch_size=8", *SMALL]) == 0
    rows = read(out)["rows"]
    assert [(r["crops"], r["micro_batches"], r["reason"]) for r in rows] == [
        (8, 2, ""),
        (4, 1, ""),
        (8, 0, "does not fit in one piece"),
    ]


def test_a_step_that_fails_says_why_and_the_others_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("no such\nkernel")

    monkeypatch.setattr(training_step, "naive_step", broken)
    out = tmp_path / "report.json"
    assert main(["training_step", "--device", "cpu", "--phases", "1", "--out", str(out), *SMALL]) == 0
    assert [row["reason"] for row in read(out)["rows"]] == ["", "RuntimeError: no such kernel"]


def row(phase: int, arm: str, ms: float, gib: float, crops: int = 16) -> StepRow:
    return StepRow("", arm, "warm", 0, 0, 0, None, 0, 0, phase, crops, 1, ms, reserved_bytes=int(gib * 2**30))


def test_verdicts_are_given_on_what_was_promised() -> None:
    rows = [
        row(1, "eager", 10, 10.4),
        row(1, "compiled", 11, 10.6),
        row(1, "naive", 21, 30),
        row(1, "eager", 99, 99, crops=32),
    ]
    lines = verdicts(rows, "cuda", 12.0)
    assert [line[:5] for line in lines] == ["FAILS", "FAILS", "holds", "FAILS", "large", "large"]
    assert "phase 1, naive over compiled 1.91, at least 2" in lines[1] and "reserved GiB 10.6, at most 10.5" in lines[3]
    assert [line[:5] for line in verdicts(rows, "cpu", 0.0)] == ["FAILS", "holds", "large", "large"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--arms", "eager,fast"], "--arms fast: known are eager, compiled, naive"),
        (["--phases", "4"], "--phases 4: known are 1, 2, 3"),
        (["--memory-gb", "12"], "--memory-gb 12: the GPU here has"),
        (["dynamics.dims=3"], "did you mean dynamics.dim?"),
    ],
)
def test_a_users_mistake_is_one_line_and_2(
    options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        main(["training_step", "--device", "cpu", *options])
    error = capsys.readouterr().err
    assert left.value.code == 2 and message in error and error.count("\n") == 1
