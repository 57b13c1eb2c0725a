"""The cost model: its counts are the benchmark's and the group's own, and its arithmetic can be followed by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from bench.gate.rows.base import Place
from bench.gate.rows.communication import sent as sent_by_a_rank
from bench.suites.training_step import crop_flops
from fastdreamer import cli
from fastdreamer.config import load_config
from fastdreamer.device import Backend
from fastdreamer.tools.planning import cost
from fastdreamer.tools.planning.cost import NODE, REACHED, Cost, Rates, Sizes, hours_of, sent, sizes_of, step_seconds
from fastdreamer.tools.planning.plan import Plan

CPU = torch.device("cpu")


def test_flops_are_those_that_the_benchmark_counts() -> None:
    config = load_config("debug", ["device=cpu", "forcing.boot_fraction=0.25"])
    flow, boot = crop_flops(config, Backend(CPU, "fp32"))
    assert sizes_of(config, 1).flops == pytest.approx(0.75 * flow + 0.25 * boot, rel=0.01)


def test_bytes_are_those_that_a_rank_is_seen_to_send(tmp_path: pytest.TempPathFactory) -> None:
    """Of two over a ring: half of what a sum is given, twice; all of a part that is gathered."""
    place = Place(CPU, tmp_path)  # type: ignore[arg-type]
    config = place.config("forcing.boot_warmup=0")
    whole, of = sent_by_a_rank(config, 1, place)
    sizes = replace(sizes_of(config, 1), width=4)
    assert (sizes.blocks + sizes.rest) == of["rest"]
    assert sent(sizes, 1, 2, False) == (0.0, whole["bytes"] - 4 * (of["figures"] + 2))
    sharded, of = sent_by_a_rank(replace(config, ranks=replace(config.ranks, shard=True)), 1, place)
    gathers, sums = sizes.blocks * 4 * sizes.passes / 2, sizes.blocks * 4
    beside, after = sent(sizes, 1, 2, True)
    assert after == 4 * of["rest"] and beside == gathers + sums / 2
    assert sharded["bytes"] == gathers + sums + 4 * of["rest"] + 4 * (of["figures"] + 2) + 4


SIZES = Sizes(flops=1e12, again=0.0, blocks=10**9, rest=10**6, passes=2)
RATES = Rates(flops=1e14, memory=math.inf, inside=1e11, between=1e10)


def test_a_step_is_the_sum_of_its_parts() -> None:
    alone = step_seconds(SIZES, RATES, 8, 1, 1, False, 0.5)
    assert alone == pytest.approx(8e12 / 5e13)
    whole = step_seconds(SIZES, RATES, 4, 1, 2, False, 0.5)
    assert whole == pytest.approx(alone / 2 + 4 * 1.001e9 / (REACHED * 1e11))
    far = step_seconds(SIZES, RATES, 1, 1, 2 * NODE, False, 0.5)
    assert far == pytest.approx(alone / 8 + 2 * (15 / 16) * 4 * 1.001e9 / (REACHED * 1e10))
    beside, after = sent(SIZES, 1, 2, True)
    both = step_seconds(SIZES, RATES, 4, 1, 2, True, 0.5)
    assert both == pytest.approx(max(alone / 2, beside / (REACHED * 1e11)) + after / (REACHED * 1e11))
    apart = step_seconds(SIZES, RATES, 4, 1, 2, True, 0.5, overlaps=False)
    assert apart == pytest.approx(alone / 2 + (beside + after) / (REACHED * 1e11))


def test_hours_keep_the_rows_that_are_trained_on() -> None:
    config = load_config("minerl_cosmos")
    plan = Plan(1, config.phase1, {}, 1, 0)
    one, two = (Cost(1, batch, plan, False, 3.6, 0.0) for batch in (16, 32))
    assert hours_of(config, 1, one, "MineRL") == pytest.approx(100_000 / 1000)
    assert hours_of(config, 1, two, "MineRL") == pytest.approx(50_000 / 1000)
    steps = 5 * 2541 * 3600 * 20 / (16 * 32 * 8)
    assert hours_of(config, 1, one, "VPT") == pytest.approx(steps / 1000)
    assert hours_of(config, 2, one, "VPT") == hours_of(config, 2, one, "MineRL")


def test_the_command_prints_a_row_a_number_and_what_it_assumes(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["plan", "--config", "debug", "--phase", "1", "--gpu", "h100", "--gpus"]
    assert cli.main([*words, "2..8", "--mfu", "0.5"]) == 0
    out = capsys.readouterr().out
    assert "assumed: 50% of 989 TFLOP/s" in out and "no GPU has confirmed it" in out
    rows = [line.split() for line in out.splitlines() if line.split()[1:2] == ["whole"]]
    assert [(row[0], row[2]) for row in rows] == [("2", "4"), ("4", "4"), ("8", "8")]  # the batch grows to eight
    assert "encode, GPU-hours: MineRL (60 h of play)" in out and "VPT (2,541 h of play)" in out
    assert cli.main(["plan", "--config", "debug", "--gpu", "rtx-3060", "--gpus", "1..8"]) == 2
    assert f"--gpu {' or '.join(cost.RATES)}" in capsys.readouterr().err
