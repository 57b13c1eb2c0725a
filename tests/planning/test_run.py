"""`fastdreamer plan`, and `train` that plans before it builds: exit codes, refusals, and the same result in pieces."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from fastdreamer import cli
from fastdreamer.config import Config, load_config
from fastdreamer.device import Backend
from fastdreamer.errors import UserError
from fastdreamer.latents.synthetic import write_synthetic_store
from fastdreamer.recordings.actions import action_space
from fastdreamer.run.kept_config import check_run
from fastdreamer.run.metrics import read_metrics
from fastdreamer.settings import differences, dump_config
from fastdreamer.tools.planning.gpus import this_machine
from fastdreamer.tools.planning.run_memory import RunMemory

# One layer, to be quick, and large enough that pieces matter beside the segments that the allocator takes.
WIDE = (
    "dynamics.dim=128",
    "dynamics.layers=1",
    "dynamics.window=16",
    "dynamics.context=16",
    "forcing.boot_fraction=0",
    "phase1.batch_size=8",
    "phase1.steps=2",
)
LIMIT = "memory_gb=0.042"  # 37.6 MiB are for the run: four crops, not eight
PLAIN = ("device=cpu", "precision=fp32", "data.recordings=/nonexistent", "phase1.log_every=1", *WIDE)
CPU = Backend(torch.device("cpu"), "fp32")


@pytest.fixture
def new_run(tmp_path: Path) -> Callable[[str], Path]:
    """Makes a run directory with a synthetic store."""

    def make(name: str) -> Path:
        config = load_config("debug", PLAIN)
        space = action_space(config.data.env)
        write_synthetic_store(tmp_path / name / "store", config.tokenizer.clock, space, episodes=3, steps=12, seed=0)
        return tmp_path / name

    return make


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str, dict[str, Any]]:
    """Exit code, stdout, stderr and the JSON at the end."""
    capsys.readouterr()
    status = cli.main([*words, "--json"])
    out, err = capsys.readouterr()
    last = out.splitlines()[-1] if out else ""
    return status, out, err, json.loads(last) if last.startswith("{") else {}


def test_plan_says_what_fits_and_what_would(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("plan", "--config", "debug", "--phase", "1", *WIDE, "precision=fp32", "data.resident=ram")
    status, out, _, result = run(capsys, *words)
    plan = result["phases"]["1"]
    assert status == 0 and plan["fits"] and not result["changes"] and result["limit_gb"] == pytest.approx(10.5)
    assert plan["reserved_gb"] == pytest.approx(sum(plan["components_gb"].values()))
    assert "fits" in out and "optimiser state" in out and "CUDA context (assumed)" in out and "encode plans" in out
    limit = plan["reserved_gb"] * 1024 / 0.875
    status, out, _, result = run(capsys, *words, "--budget", f"{limit - 4:.1f}MiB", "phase1.micro_batch=8")
    assert status == 1 and result["refused"] and "DOES NOT FIT" in out
    (change,) = [line for line in out.splitlines() if "would fit: " in line]
    assert all(word in change for word in result["changes"]) and result["changes"][0].startswith("phase1.micro_batch=")
    assert run(capsys, *words, "--budget", f"{limit - 4:.1f}MiB", *result["changes"])[0] == 0
    status, out, _, result = run(capsys, *words, "--budget", "70MiB")
    assert status == 1 and "nothing that is a setting of the phase would fit" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--budget twelve", "budget 'twelve' is no size: give a number above 0 and GiB"),
        ("--card rtx-3061", "unknown GPU 'rtx-3061'; did you mean rtx-3060?"),
        ("--card 3060 --budget 12GiB", "--gpu 3060 and --budget 12GiB say the same thing: give one of them"),
        ("--phase 4", "phase is 4; there are phases 1, 2 and 3"),
    ],
)
def test_a_mistake_in_what_to_plan_is_one_line_and_exit_2(
    words: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, err, _ = run(capsys, "plan", "--config", "debug", *words.split())
    assert status == 2 and out == "" and message in err and err.count("\n") == 1


def test_train_takes_the_pieces_that_fit_and_learns_the_same(
    new_run: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    whole, micro_batches = new_run("whole"), new_run("micro-batches")
    train = ("train", "--phase", "1", "--config", "debug", *PLAIN)
    status, out, _, result = run(capsys, *train, "--run-dir", str(whole))
    assert status == 0 and "memory:" not in out and "memory" not in result
    status, out, _, result = run(capsys, *train, "--run-dir", str(micro_batches), LIMIT)
    memory = result["memory"]
    assert status == 0 and memory["at_once"] == 4
    planned, measured = [line for line in out.splitlines() if line.startswith("memory: ")]
    assert "4 crops at once, batches of 8" in planned
    assert "growth of resident memory" in measured and memory["measured"] == "growth of resident memory"
    assert 0 < memory["planned_gb"] <= memory["limit_gb"] == pytest.approx(0.875 * 0.042)
    assert memory["measured_gb"] >= 0  # so little may come out of what the process holds already
    assert load_config(micro_batches / "config.yaml").phase1.micro_batch == 0
    losses = [[row["loss"] for row in read_metrics(path)] for path in (whole, micro_batches)]
    assert len(losses[0]) == 2 and losses[1] == pytest.approx(losses[0], rel=1e-4)
    # The limit is no part of the run: it may be lifted, and the run goes on.
    status, *_ = run(capsys, "train", "--phase", "1", "--run-dir", str(micro_batches), "--resume", "memory_gb=0")
    assert status == 0


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ((LIMIT, "phase1.micro_batch=8"), ": phase1.micro_batch="),
        (("memory_gb=0.001",), ", and no setting of the phase makes it fit: lower dynamics.dim or dynamics.layers"),
    ],
)
def test_train_refuses_what_cannot_fit_with_the_change_that_would(
    overrides: tuple[str, ...], message: str, new_run: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    path = new_run("run")
    words = ("train", "--phase", "1", "--config", "debug", "--run-dir", str(path), *PLAIN, *overrides)
    status, _, err, _ = run(capsys, *words)
    assert status == 2 and err.count("\n") == 1 and message in err
    assert "phase1 plans" in err and "over the" in err and "that a run may take of" in err
    assert not (path / "checkpoints").exists() and not (path / "metrics.jsonl").exists()


def test_a_cpu_without_a_limit_plans_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    config = load_config("debug")
    memory = RunMemory()
    monkeypatch.setattr("fastdreamer.tools.planning.plan.measure", lambda *a: pytest.fail("planned"))
    assert memory.settle(config, 1, CPU, 0) is config and memory.finished() == {}


def test_a_card_is_planned_for_what_it_has_free(monkeypatch: pytest.MonkeyPatch) -> None:
    gib = 2**30
    gpu = Backend(torch.device("cuda"), "bf16", compiles=True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: "Some GPU")

    def limit(free_gb: float, *overrides: str) -> float:
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device=None: (int(free_gb * gib), 12 * gib))
        budget = this_machine(load_config("minerl_cosmos", overrides), gpu)
        assert budget is not None and budget.is_gpu and budget.name == "Some GPU"
        assert budget.backend.device.type == "cpu" and budget.backend.precision == "bf16"
        return budget.limit / gib

    assert limit(11.4) == pytest.approx(10.5)
    assert limit(6.0) == pytest.approx(6.0)
    assert limit(11.4, "memory_gb=8") == pytest.approx(7.0)


def test_the_settled_configuration_has_pieces_and_is_otherwise_the_same() -> None:
    config = load_config("debug", ["memory_gb=1", "phase1.batch_size=6", "dynamics.layers=1"])
    assert differences(config, RunMemory().settle(config, 1, CPU, 0)) == {"phase1.micro_batch": (0, 6)}


def test_growth_is_never_less_than_nothing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    counts = {"VmRSS": 1 << 30, "VmHWM": (1 << 30) - 57_344}  # as Linux's loose counts were once seen
    monkeypatch.setattr("fastdreamer.tools.planning.run_memory.kernel_bytes", lambda file, name: counts[name])
    config = load_config("debug", ["memory_gb=1", "dynamics.layers=1"])
    memory = RunMemory()
    memory.settle(config, 1, CPU, 0)
    assert memory.finished()["memory"]["measured_gb"] == 0
    assert "measured 0" in capsys.readouterr().out


def test_the_limit_is_free_to_change(tmp_path: Path) -> None:
    config: Config = load_config("debug")
    dump_config(config, tmp_path / "config.yaml")
    (tmp_path / "checkpoints" / "phase1" / "step-00000001").mkdir(parents=True)  # what a configuration binds
    check_run(tmp_path, load_config("debug", ["memory_gb=8", "phase1.micro_batch=2", "phase1.recompute=true"]))
    with pytest.raises(UserError, match="phase1.batch_size"):
        check_run(tmp_path, load_config("debug", ["phase1.batch_size=2"]))
