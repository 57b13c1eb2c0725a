"""The naive comparison: what it prints, what it refuses, and its arithmetic."""

from __future__ import annotations

import copy
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from bench.naive.arms import build, levels_of, our_imagination, with_band
from bench.suites import naive as compare
from bench.suites.command import SUITES, main
from fastdreamer.config import load_config
from fastdreamer.device import Backend
from fastdreamer.dynamics.world_model import WorldModel
from fastdreamer.errors import UserError

SMALL = [
    "device=cpu",
    "phase1.optimizer=adamw",
    "dynamics.layers=2",
    "imagination.horizon=2",
    "imagination.start_context=1",
    "phase3.batch_size=3",
]

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")
BACKEND = Backend(CPU, "fp32")


def test_levels_of_the_benchmark_have_exactly_the_share_of_bootstrap_rows() -> None:
    config = load_config("debug", [*SMALL, "phase1.batch_size=8", "forcing.boot_fraction=0.25"])
    levels = levels_of(config, torch.Generator().manual_seed(0))
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
    assert re.search(r"all arms agree: loss [\d.]+ and [\d.]+ after a step", out)
    for other in ("naive", "public"):
        assert re.search(rf"phase-1 step, 4 x 5, boot share 0\.25, {other} +[\d.]+ +[\d.]+ +[\d.]+", out)
    for kind in ("plain", "program", "merged"):
        assert re.search(rf"rollout, {kind}, 3 dreams, H = 2 +[\d.]+", out)
    assert re.search(r"H = 6 +[\d.]+ ms a step", out)
    verdicts = [line for line in out.splitlines() if re.match("(holds|FAILS): ", line)]
    assert len(verdicts) == 7 and out.splitlines()[-7:] == verdicts
    assert re.fullmatch(r"\w+: phase-1 step, .* naive over ours [\d.]+ \+- [\d.e-]+, at least 1\.3", verdicts[0])
    assert "public over ours" in verdicts[1] and "concatenating cache over ours" in verdicts[5]
    assert all(verdict.endswith("at least 3") for verdict in verdicts[2:6]) and "horizon" in verdicts[6]
    with pytest.raises(UserError, match="adamw alone"):
        compare.main("debug", [*SMALL, "phase1.optimizer=muon"])


@pytest.mark.parametrize("spoil", ["naive_step", "naive_imagination", "plain", "program", "merged", "cached"])
def test_nothing_is_timed_where_the_arms_differ(spoil: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name = {"cached": "naive_imagination"}.get(spoil, spoil if spoil.startswith("naive") else "our_imagination")
    arm: Callable[..., object] = getattr(compare, name)

    def other_weights(work: object, backend: Backend, *rest: object) -> object:
        spoiled = copy.deepcopy(work)
        if name == spoil or spoil in rest or (spoil == "cached" and rest == (True,)):
            spoiled.world.readout.weight.data.mul_(1.1)  # type: ignore[attr-defined]
        return arm(spoiled, backend, *rest)

    monkeypatch.setattr(compare, name, other_weights)
    with pytest.raises(RuntimeError, match="differ" if name == spoil else f"differ.*{spoil}"):
        compare.check(build(load_config("debug", [*SMALL, "seed=1"]), CPU), BACKEND)


@torch.no_grad()
def test_longer_dreams_get_a_band_that_they_may_pass_and_the_same_weights() -> None:
    work = build(load_config("debug", SMALL), CPU)
    banded = with_band(work)
    assert banded.config.dynamics.context == 2 and with_band(banded) is banded
    whole, short = (our_imagination(one, BACKEND, "program", [5])(5) for one in (work, banded))
    torch.testing.assert_close(short.latents[:, :2], whole.latents[:, :2])  # nothing is out of the band's reach yet
    assert not torch.allclose(short.latents[:, 3], whole.latents[:, 3])


def test_every_kind_of_rollout_is_what_it_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    work = build(load_config("debug", SMALL), CPU)
    read, passes = WorldModel.read, list[int]()

    def counted(self: WorldModel, noisy: torch.Tensor, *rest: object) -> object:
        passes.append(noisy.shape[1])
        return read(self, noisy, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(WorldModel, "read", counted)
    for kind, wanted in (("plain", [1] * 11), ("program", [1] * 11), ("merged", [2, 1, 1, 1] * 2)):
        rollout = our_imagination(work, BACKEND, kind, [2])
        passes.clear()
        rollout(2)
        assert passes == wanted, kind


def test_a_users_mistake_is_one_line_and_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["naive", "--config", "debug", "dynamics.dims=3"])
    assert left.value.code == 2
    out, err = capsys.readouterr()
    assert err.count("\n") == 1 and "did you mean dynamics.dim?" in err and out == ""
    for given, code, said in ((["--compiles"], 2, "--compile"), (["--help"], 0, "python -m bench.suites naive")):
        with pytest.raises(SystemExit) as left:
            main(["naive", *given])
        assert left.value.code == code and said in "".join(capsys.readouterr())
    assert main(["naives"]) == 2 and "there are naive, " in capsys.readouterr().err


def test_the_runner_lists_every_suite_and_each_takes_its_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    listed = capsys.readouterr().out
    for name in SUITES:
        with pytest.raises(SystemExit) as left:
            main([name, "--help"])
        assert left.value.code == 0 and f"  {name} " in listed and f"bench.suites {name}" in capsys.readouterr().out


@pytest.mark.long
def test_compiled_arms_are_printed_beside_eager_ones() -> None:
    """In a process of its own: run-time shape checks and torch.compile do not mix."""
    command = [sys.executable, "-m", "bench.suites", "naive", "--config", "debug", "--compile", *SMALL]
    ran = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert ran.returncode == 0, ran.stderr
    assert re.search(r"compiled phase-1 step, eager +[\d.]+ +[\d.]+ +[\d.]+", ran.stdout)
    assert re.search(r"compiled merged program, eager, H = 2 +[\d.]+", ran.stdout)
    for name in ("phase-1 step", "merged program"):
        assert re.search(rf"(holds|FAILS): {name}, eager over compiled .*, at least 1\n", ran.stdout)
