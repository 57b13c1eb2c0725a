"""The suite that measures several processes: what it compares, and the communication that a model's size says."""

from __future__ import annotations

import argparse

import pytest

from bench.suites import ranks
from bench.suites.command import main
from bench.suites.ranks import started
from fastdreamer.config import load_config
from fastdreamer.dynamics.world_model import WorldModel
from fastdreamer.recordings.actions import action_space


@pytest.mark.slow
def test_the_sums_of_a_step_hold_each_gradient_once() -> None:
    chosen = argparse.Namespace(config="debug", phase=1, steps=1, overrides=[])
    row, config = started(chosen, processes=2, threads=1), load_config("debug")
    world = WorldModel.build(config, action_space(config.data.env).sizes)
    trained = sum(p.numel() for p in world.parameters() if p.requires_grad)
    figures = row["bytes"] / 4 - trained
    assert row["calls"] == 1 and row["seconds"] > 0 and 2 < figures < 64  # the step's figures, and a place a rank


def test_arms_are_compared_round_by_round(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    seconds = {(1, 1): 0.3, (1, 2): 0.2, (2, 1): 0.1}
    drift = iter(range(1, 100))

    def timed(chosen: argparse.Namespace, processes: int, threads: int) -> dict[str, float]:
        return {"seconds": seconds[processes, threads] * (1 + 1e-6 * next(drift)), "calls": 1, "bytes": 8}

    monkeypatch.setattr(ranks, "started", timed)
    assert main(["ranks", "--rounds", "3"]) == 0
    printed = capsys.readouterr().out
    assert "2 processes against 1 process, 1 thread: 3.00 +- 0.00 times as fast (3 rounds)" in printed
    assert "2 processes against 1 process, 2 threads: 2.00 +- 0.00" in printed


def test_what_cannot_be_measured_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["ranks", "--rounds", "1"])
    assert ended.value.code == 2 and "--rounds of 2 or more" in capsys.readouterr().err
