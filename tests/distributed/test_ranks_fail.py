"""What goes wrong on one rank ends all of them, soon, in one line that names it; and what was trained stays."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fastdreamer.run.checkpoint import steps_in
from fastdreamer.run.metrics import read_metrics

from .launches import SETTINGS, ended, environment, launched, new_run

pytestmark = pytest.mark.slow


def saved(run: Path) -> int:
    found = steps_in(run / "checkpoints" / "phase1")
    return int(found[-1].name.removeprefix("step-")) if found else 0


def logged(run: Path) -> list[int]:
    return [row["step"] for row in read_metrics(run)]


FAULTS = [
    ("kill:1:7", r"rank 1 of 2 \(process \d+ on .+\) ended without a word", 6),
    pytest.param("kill:0:14", r"rank 0 of 2 \(process \d+ on .+\) ended without a word", 10, marks=pytest.mark.long),
    ("hang:1:7", r"the others waited 5 s \(ranks.timeout_s\) for rank 1 of 2 .+, last heard of in step 7", 6),
    pytest.param("raise:1:7", r"rank 1 of 2 \(.+\): unexpected KeyError: 'a bug of ours'", 6, marks=pytest.mark.long),
    pytest.param(
        "oom:1:7", r".*phase1: out of memory at step 7 with 2 micro-batches \(on rank 1", 6, marks=pytest.mark.long
    ),
    ("nan:1:7", r"phase 1 stopped at step 9: .+ was not finite \(of rank 1\)", 9),
    pytest.param(
        "skip:1:7", r"phase 1 after step 7: model .+ of rank 1 of 2 \(.+\) is not rank 0's", 0, marks=pytest.mark.long
    ),
    pytest.param("full:0:10", r"rank 0 of 2 \(.+\): .+: No space left on device", 0, marks=pytest.mark.long),
]


@pytest.mark.parametrize(("fault", "line", "step"), FAULTS)
def test_a_fault_on_one_rank_ends_all_in_one_line(tmp_path: Path, fault: str, line: str, step: int) -> None:
    run = new_run(tmp_path / "run")
    found = ended(run, "phase1.max_skipped=3", fault=fault)
    assert found.status == 1  # torchrun's own
    (error,) = found.errors
    assert re.match(f"fastdreamer: error: {line}", error), error
    assert saved(run) == step


def test_a_mistake_is_said_once_and_not_tried_again(tmp_path: Path) -> None:
    run = new_run(tmp_path / "run")
    found = ended(run, "phase1.batch_size=1", restarts=1)
    assert found.errors == ["fastdreamer: error: phase1.batch_size is 1, fewer than the 2 ranks: start at most 1"]
    assert not list(run.glob("checkpoints/*/step-*"))


def test_torchruns_end_saves_and_a_second_training_is_refused_meanwhile(tmp_path: Path) -> None:
    run = new_run(tmp_path / "run")
    with launched(run, slow_s=0.3) as launch:
        launch.trains()
        alone = [sys.executable, "-m", "fastdreamer", "train", "--run-dir", f"{run}/", "--phase", "1", *SETTINGS]
        second = subprocess.run(alone, capture_output=True, text=True, check=False, env=environment())
        assert second.returncode == 2 and "is in use by process" in second.stderr
        assert len(second.stderr.splitlines()) == 1
        launch.process.send_signal(signal.SIGTERM)
        found = launch.end()
    assert not found.errors
    assert saved(run) == logged(run)[-1] > 0


def test_a_launcher_that_is_killed_leaves_no_ranks_behind(tmp_path: Path) -> None:
    run = new_run(tmp_path / "run")
    with launched(run, slow_s=0.3) as launch:
        launch.trains()
        launch.process.kill()
        launch.end()
    assert saved(run) == logged(run)[-1] > 0


def test_killed_ranks_go_on_by_themselves(tmp_path: Path) -> None:
    whole, broken = new_run(tmp_path / "whole"), new_run(tmp_path / "broken")
    assert ended(whole).status == 0
    with launched(broken, restarts=4, slow_s=0.1) as launch:
        for rank, step in ((1, 4), (0, 13)):
            launch.trains(step)
            os.kill(launch.workers()[rank], signal.SIGKILL)
            time.sleep(1)
        found = launch.end()
    assert found.status == 0 and len(found.errors) == 2, found.err
    rows = [[(row["step"], row["loss"]) for row in read_metrics(run)] for run in (whole, broken)]
    assert rows[0] == rows[1]  # the same number of ranks: the same bits
