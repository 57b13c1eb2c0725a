"""The naive comparison: what it prints, what it refuses, and its arithmetic."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable

import pytest
import torch

from bench.naive import compare
from bench.naive.__main__ import run
from bench.naive.arms import build, exact_levels, our_dream, with_band
from fastdreamer.errors import UserError
from fastdreamer.settings import load_config

SMALL = [
    "device=cpu",
    "phase1.optimizer=adamw",
    "dynamics.layers=2",
    "imagination.horizon=2",
    "imagination.start_context=1",
    "phase3.batch_size=3",
]


def test_levels_of_the_benchmark_have_exactly_the_share_of_bootstrap_rows() -> None:
    config = load_config("debug", [*SMALL, "phase1.batch_size=8", "forcing.boot_fraction=0.25"])
    levels = exact_levels(config, torch.Generator().manual_seed(0))
    assert levels.is_boot.tolist() == [True] * 2 + [False] * 6
    assert torch.equal(levels.step_size > 0, levels.is_boot[:, None].expand(-1, 5))


def test_slope_is_found_through_drift_between_rounds() -> None:
    rows = [{h: 3.0 * h + drift for h in (5, 10, 30)} for drift in (0.0, 100.0)]
    assert compare.slope(rows) == pytest.approx((3.0, 0.0), abs=1e-9)
    rows[0][5] += 1.0
    found, error = compare.slope(rows)
    assert 0 < abs(found - 3.0) < 3 * error


def test_the_command_prints_its_table(capsys: pytest.CaptureFixture[str]) -> None:
    compare.main("debug", SMALL, pairs=2, rounds=2, horizons=(2, 4, 6))
    out = capsys.readouterr().out
    assert re.search(r"both arms agree: loss [\d.]+ and [\d.]+ after a step", out)
    assert re.search(r"phase-1 step, 4 x 5, boot share 0\.25 +[\d.]+ +[\d.]+ +[\d.]+", out)
    assert re.search(r"rollout, 3 dreams, H = 2 +[\d.]+", out)
    assert re.search(r"H = 6 +[\d.]+ ms a step", out) and "for each step of horizon" in out
    with pytest.raises(UserError, match="adamw alone"):
        compare.main("debug", [*SMALL, "phase1.optimizer=muon"])


@pytest.mark.parametrize("spoil", ["naive_step", "naive_dream"])
def test_nothing_is_timed_where_the_arms_differ(spoil: str, monkeypatch: pytest.MonkeyPatch) -> None:
    arm: Callable[..., object] = getattr(compare, spoil)

    def other_weights(work: object, precision: str) -> object:
        spoiled = copy.deepcopy(work)
        spoiled.world.readout.weight.data.mul_(1.1)  # type: ignore[attr-defined]
        return arm(spoiled, precision)

    monkeypatch.setattr(compare, spoil, other_weights)
    with pytest.raises(RuntimeError, match="differ"):
        compare.check(build(load_config("debug", [*SMALL, "seed=1"]), torch.device("cpu")))


@torch.no_grad()
def test_longer_dreams_get_a_band_that_they_may_pass_and_the_same_weights() -> None:
    work = build(load_config("debug", SMALL), torch.device("cpu"))
    banded = with_band(work)
    assert banded.config.dynamics.context == 2 and with_band(banded) is banded
    whole, short = our_dream(work, "fp32")(5), our_dream(banded, "fp32")(5)
    torch.testing.assert_close(short.latents[:, :2], whole.latents[:, :2])  # nothing is out of the band's reach yet
    assert not torch.allclose(short.latents[:, 3], whole.latents[:, 3])


def test_a_users_mistake_is_one_line_and_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["debug", "dynamics.dims=3"]) == 2
    out, err = capsys.readouterr()
    assert err.count("\n") == 1 and "did you mean dynamics.dim?" in err and out == ""
    assert run(["--help"]) == 0 and "python -m bench.naive" in capsys.readouterr().out
