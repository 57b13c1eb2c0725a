"""Ranks that share out the world model when one fails: all end in one line, and go on from the last checkpoint."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pytest

from fastdreamer.run.checkpoint import steps_in
from fastdreamer.run.metrics import read_metrics

from .launches import ended, launched, new_run

pytestmark = pytest.mark.long
FAULTS = [
    ("kill:1:7", r"rank 1 of 2 \(process \d+ on .+\) ended without a word"),
    ("hang:1:7", r"the others waited 5 s \(ranks.timeout_s\) for rank 1 of 2 "),
    (
        "oom:1:7",
        r"phase1: out of memory at step 7 on rank 1 \(CUDA out of .*\), which ends a sharded phase: lower",
    ),
    ("nan:1:7", r"phase 1 stopped at step 9: .+ was not finite \(of rank 1\)"),
    ("skip:1:7", r"phase 1 after step 7: model world\..+ of rank 1 of 2 \(.+\) is not rank 0's"),
]


@pytest.mark.parametrize(("fault", "line"), FAULTS, ids=[fault for fault, _ in FAULTS])
def test_a_fault_on_one_rank_ends_all_in_one_line(tmp_path: Path, fault: str, line: str) -> None:
    """One rank cannot save what is sharded: what was trained since the last checkpoint is lost."""
    run = new_run(tmp_path / "run")
    words = ("ranks.shard=true", "phase1.max_skipped=3", "phase1.checkpoint_every=4")
    found = ended(run, *words, fault=fault)
    (error,) = found.errors
    assert re.match(f"fastdreamer: error: {line}", error), error
    assert steps_in(run / "checkpoints" / "phase1")[-1].name == f"step-{9 if fault[0] == 'n' else 4:08d}"


def test_a_disk_that_one_rank_cannot_write_ends_all_and_older_checkpoints_stay(tmp_path: Path) -> None:
    run = new_run(tmp_path / "run")
    found = ended(run, "ranks.shard=true", "phase1.checkpoint_every=4", fault="full:1:8")
    (error,) = found.errors
    line = r"fastdreamer: error: rank 1 of 2 .*: cannot write .*step-00000008.*: the disk is full"
    assert re.match(line, error), error
    assert [path.name for path in steps_in(run / "checkpoints" / "phase1")] == ["step-00000004"]


def test_killed_ranks_go_on_from_the_last_checkpoint(tmp_path: Path) -> None:
    whole, broken = new_run(tmp_path / "whole"), new_run(tmp_path / "broken")
    words = ("ranks.shard=true", "phase1.checkpoint_every=4")
    assert ended(whole, *words).status == 0
    with launched(broken, *words, restarts=2, slow_s=0.1) as launch:
        launch.trains(7)
        os.kill(launch.workers()[1], signal.SIGKILL)
        found = launch.end()
    assert found.status == 0 and len(found.errors) == 1, found.err
    rows = [{row["step"]: row["loss"] for row in read_metrics(run)} for run in (whole, broken)]
    assert rows[0] == rows[1]  # the same number of ranks: the same bits
