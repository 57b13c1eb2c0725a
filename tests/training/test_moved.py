"""While a run trains, its directory is moved, removed or copied with hard links, or its terminal closes."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fastdreamer.config import Config
from fastdreamer.errors import Stopped, UserError
from fastdreamer.run.checkpoint import Damaged, load_checkpoint, steps_in
from fastdreamer.training import loop
from fastdreamer.training.keeping import Keeper
from fastdreamer.training.step import Update
from fastdreamer.training.train import train
from tests.training.test_resume import checkpoints_equal

Small = Callable[..., Config]
MakeRun = Callable[..., Path]


def at_step(patch: pytest.MonkeyPatch, number: int, act: Callable[[], object]) -> None:
    """Does something during a step of the next training."""
    inner, taken = Update.__call__, []

    def step(update: Update, index: int) -> object:
        taken.append(index)
        if len(taken) == number:
            act()
        return inner(update, index)

    patch.setattr(Update, "__call__", step)


def test_a_run_that_is_moved_is_saved_where_it_is_and_stops_with_the_command_that_goes_on(
    small: Small, new_run: MakeRun, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config, moved = small(), tmp_path / "moved here"
    straight, run = new_run(config, "straight"), new_run(config)
    train(config, straight, 1, draws=False)
    with monkeypatch.context() as patch:
        at_step(patch, 2, lambda: run.rename(moved))
        with pytest.raises(
            Stopped, match=r"was moved to .*moved here while phase 1 .*step 3 .*'.*moved here' --phase 1"
        ):
            train(config, run, 1, draws=False)
    assert not run.exists() and not (moved / ".lock").exists()
    train(config, moved, 1, resume=True, draws=False)
    assert checkpoints_equal(straight / "checkpoints" / "phase1", moved / "checkpoints" / "phase1")


def test_a_run_that_is_removed_is_not_made_anew(
    small: Small, new_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = new_run(small())
    at_step(monkeypatch, 2, lambda: shutil.rmtree(run))
    with pytest.raises(Stopped, match="was moved or removed"):
        train(small(), run, 1, draws=False)
    assert not run.exists()


def test_a_link_that_leads_elsewhere_meanwhile_moves_nothing(
    small: Small, new_run: MakeRun, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run, other, link = new_run(small()), tmp_path / "other", tmp_path / "latest"
    other.mkdir()
    link.symlink_to(run)

    def turn() -> None:
        link.unlink()
        link.symlink_to(other)

    at_step(monkeypatch, 2, turn)
    train(small(), link, 1, draws=False)
    assert list(other.iterdir()) == [] and load_checkpoint(run / "checkpoints" / "phase1").step == 6


def test_a_copy_of_hard_links_keeps_its_history(small: Small, new_run: MakeRun, tmp_path: Path) -> None:
    config, copy = small(), tmp_path / "copy"
    run = new_run(config)
    train(config, run, 1, draws=False)
    shutil.copytree(run, copy, copy_function=os.link)
    before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    train(small("phase1.steps=8"), run, 1, resume=True, draws=False)
    assert all(path.read_bytes() == data for path, data in before.items())
    assert (run / "metrics.jsonl").read_bytes().count(b"\n") > before[copy / "metrics.jsonl"].count(b"\n")


@pytest.mark.parametrize("kind", [signal.SIGTERM, signal.SIGHUP])
def test_a_terminal_that_closes_stops_a_phase_as_sigterm_does(
    small: Small, new_run: MakeRun, monkeypatch: pytest.MonkeyPatch, kind: signal.Signals
) -> None:
    run = new_run(small())
    monkeypatch.setattr(signal, "getsignal", lambda number: signal.SIG_DFL)  # also where tests run under nohup
    at_step(monkeypatch, 2, lambda: signal.raise_signal(kind))
    with pytest.raises(SystemExit) as stopped:
        train(small(), run, 1, draws=False)
    assert stopped.value.code == 128 + kind and load_checkpoint(run / "checkpoints" / "phase1").step == 2


@pytest.mark.parametrize("done", [3, 6])
def test_a_stop_that_comes_while_a_checkpoint_is_written_counts_at_the_last_step_too(
    small: Small, new_run: MakeRun, monkeypatch: pytest.MonkeyPatch, done: int
) -> None:
    run, save = new_run(small()), Keeper.save

    def stopped_in(keeper: Keeper, step: int, *args: Any) -> None:
        save(keeper, step, *args)
        if step == done:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(Keeper, "save", stopped_in)
    with pytest.raises(SystemExit) as stopped:
        train(small("phase1.checkpoint_every=3"), run, 1, draws=False)
    assert stopped.value.code == 143 and load_checkpoint(run / "checkpoints" / "phase1").step in (done, done + 1)


def test_what_nohup_ignores_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with loop._stop_requests():
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
            assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("make", [lambda path: path.touch(), lambda path: path.symlink_to("gone")])
def test_a_newest_checkpoint_that_is_no_folder_is_damaged_and_written_anew(
    small: Small, new_run: MakeRun, make: Callable[[Path], None]
) -> None:
    config = small()
    run = new_run(config)
    train(config, run, 1, draws=False)
    older, newest = steps_in(run / "checkpoints" / "phase1")
    shutil.rmtree(newest)
    make(newest)
    with pytest.raises(Damaged, match=f"go on from the one before it with: .*--checkpoint {older}"):
        train(config, run, 1, resume=True, draws=False)
    train(config, run, 1, resume=True, checkpoint=older, draws=False)
    assert load_checkpoint(run / "checkpoints" / "phase1").step == 6


def test_a_folder_that_takes_no_checkpoint_is_refused_before_the_first_step(
    small: Small, new_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = new_run(small())
    (run / "checkpoints").mkdir()
    (run / "checkpoints" / "phase1").touch()
    at_step(monkeypatch, 1, lambda: pytest.fail("a step was taken"))
    with pytest.raises(UserError, match="phase1"):
        train(small(), run, 1, draws=False)
