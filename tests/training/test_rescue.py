"""Any exception leaves a run as resumable as SIGTERM does, and its history is never lost."""

from __future__ import annotations

import errno
import json
import math
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fastdreamer.config import Config
from fastdreamer.errors import UserError
from fastdreamer.health.watch import Watch
from fastdreamer.run import rank_files
from fastdreamer.run.checkpoint import load_checkpoint, steps_in
from fastdreamer.run.metrics import MetricsWriter, read_metrics
from fastdreamer.system import files
from fastdreamer.training import optim
from fastdreamer.training.train import train
from fastdreamer.training.world_model_phase import WorldModelPhase

from .test_resume import checkpoints_equal, timeless

Small = Callable[..., Config]
MakeRun = Callable[..., Path]


def fails_at(call: int, plain: Callable[..., object], error: Exception) -> Callable[..., object]:
    """A function that raises at one of its calls, counted from 1."""
    calls = []

    def work(*given: object, **more: object) -> object:
        calls.append(given)
        if len(calls) == call:
            raise error
        return plain(*given, **more)

    return work


PLACES = [
    (WorldModelPhase, "loss", RuntimeError("a bug of ours"), 4),
    (WorldModelPhase, "draw", MemoryError(), 4),
    (WorldModelPhase, "draw", UserError("the store is gone"), 4),
    (WorldModelPhase, "figures", MemoryError(), 5),
    (Watch, "see", KeyError("reward_std"), 5),
    (MetricsWriter, "write", UserError("cannot write metrics.jsonl: the disk is full"), 5),
]


@pytest.mark.parametrize(("owner", "name", "error", "saved"), PLACES)
def test_any_exception_leaves_the_last_whole_step_and_a_resume_gives_the_same_bits(
    small: Small,
    new_run: MakeRun,
    monkeypatch: pytest.MonkeyPatch,
    owner: type,
    name: str,
    error: Exception,
    saved: int,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = small("phase1.log_every=1", "phase1.checkpoint_every=3", "phase1.steps=8")
    straight, broken = new_run(config, "straight"), new_run(config, "broken")
    train(config, straight, 1)
    with monkeypatch.context() as patch, pytest.raises(type(error)):
        patch.setattr(owner, name, fails_at(5, getattr(owner, name), error))
        train(config, broken, 1)
    assert load_checkpoint(broken / "checkpoints" / "phase1").step == saved
    assert f"step {saved} is saved, --resume goes on from it" in capsys.readouterr().err
    train(config, broken, 1, resume=True)
    assert checkpoints_equal(straight / "checkpoints" / "phase1", broken / "checkpoints" / "phase1")
    assert timeless(broken) == timeless(straight)


def test_a_flag_that_the_disk_refused_is_raised_by_the_resume(
    small: Small, new_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The step was saved and its line written, and nothing looked at it again."""
    config = small("phase1.log_every=1", "phase1.checkpoint_every=3", "phase1.steps=8", "phase1.max_skipped=8")
    straight, broken = new_run(config, "straight"), new_run(config, "broken")
    spoilt = WorldModelPhase.loss

    def loss(self: Any, work: Any, step: int) -> Any:
        value, figures = spoilt(self, work, step)
        return (value * math.nan if step == 4 else value), figures

    monkeypatch.setattr(WorldModelPhase, "loss", loss)
    train(config, straight, 1)
    with monkeypatch.context() as patch, pytest.raises(UserError, match="Input/output"):
        error = UserError("flags.json cannot be read: Input/output error")
        patch.setattr(Watch, "_keep", fails_at(1, Watch._keep, error))
        train(config, broken, 1)
    assert load_checkpoint(broken / "checkpoints" / "phase1").step == 5 and not (broken / "flags.json").exists()
    train(config, broken, 1, resume=True)
    assert (broken / "flags.json").read_text() == (straight / "flags.json").read_text()


def test_a_step_that_was_only_half_taken_in_is_not_saved(
    small: Small, new_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small("phase1.steps=8")
    straight, broken = new_run(config, "straight"), new_run(config, "broken")
    train(config, straight, 1)
    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="ours"):
        patch.setattr(optim.EMA, "update", fails_at(5, optim.EMA.update, RuntimeError("ours")))
        train(config, broken, 1)
    assert load_checkpoint(broken / "checkpoints" / "phase1").step == 3
    train(config, broken, 1, resume=True)
    assert checkpoints_equal(straight / "checkpoints" / "phase1", broken / "checkpoints" / "phase1")


def test_a_disk_that_refuses_the_checkpoint_is_the_error_that_is_told(
    small: Small, new_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small()
    run = new_run(config)

    def full(*given: object) -> None:
        raise RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(rank_files, "save_file", full)
    with pytest.raises(UserError, match="step-00000003: the disk is full"):
        train(config, run, 1)
    assert steps_in(run / "checkpoints" / "phase1") == [] and list((run / "checkpoints" / "phase1").iterdir()) == []


def rows(run: Path, steps: range) -> None:
    with MetricsWriter(run, 1) as writer:
        for step in steps:
            writer.write(step, {"loss": 1.0})


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_history_survives_a_kill_while_its_last_lines_are_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    rows(tmp_path, range(1, 7))

    class Killed(BaseException):
        pass

    def killed(*given: object, **more: object) -> None:
        raise Killed

    before = (tmp_path / "metrics.jsonl").read_bytes()
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(files.os, call, killed)
        MetricsWriter(tmp_path, 1, first_step=4)
    assert (tmp_path / "metrics.jsonl").read_bytes() == before
    with MetricsWriter(tmp_path, 1, first_step=4):
        pass
    assert [row["step"] for row in read_metrics(tmp_path)] == [1, 2, 3, 4]
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_lines_that_stay_are_not_written_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows(tmp_path, range(1, 7))
    monkeypatch.setattr("fastdreamer.run.metrics.write_atomic", None)
    with MetricsWriter(tmp_path, 2), MetricsWriter(tmp_path, 1, first_step=6):
        pass
    assert len(read_metrics(tmp_path)) == 6


LIMITED = """
import resource, sys
from pathlib import Path
from fastdreamer.errors import UserError
from fastdreamer.run.metrics import MetricsWriter
run, limit, first = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
try:
    with MetricsWriter(run, 1, first) as writer:
        for step in range(first + 1, 100):
            writer.write(step, {"loss": 1.0})
except UserError as error:
    print(error)
"""


@pytest.mark.parametrize("first", [0, 20])
def test_a_limit_for_files_costs_no_line_and_is_named(tmp_path: Path, first: int) -> None:
    rows(tmp_path, range(1, 35))
    size = (tmp_path / "metrics.jsonl").stat().st_size
    command = [sys.executable, "-c", LIMITED, str(tmp_path), str(size // 2 + 7), str(first)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "metrics.jsonl: File too large" in done.stdout and "ulimit" in done.stdout and "Traceback" not in done.stderr
    kept = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in kept][:10] == list(range(1, 11))
    assert len(kept) == (34 if first else 17) and resource.getrlimit(resource.RLIMIT_FSIZE)[0] != size // 2


@pytest.mark.parametrize("is_resumed", [True, False])
def test_a_linked_file_of_metrics_is_refused_and_what_it_leads_to_stays(tmp_path: Path, is_resumed: bool) -> None:
    (tmp_path / "letter").write_text("dear")
    run = tmp_path / "run"
    run.mkdir()
    (run / "metrics.jsonl").symlink_to(tmp_path / "letter")
    with pytest.raises(UserError, match=r"metrics\.jsonl is a link"):
        MetricsWriter(run, 1, 3 if is_resumed else 0)
    (run / "metrics.jsonl").unlink()
    os.mkfifo(run / "metrics.jsonl")
    with pytest.raises(UserError, match="no file"):
        MetricsWriter(run, 1, 3 if is_resumed else 0)
    assert (tmp_path / "letter").read_text() == "dear"


def test_tensorboard_without_room_is_said_once_and_the_lines_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from fastdreamer.run import board

    class Full(board.io.FileIO):
        def write(self, data: object) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(board.io, "FileIO", Full)
    made = board.Board(tmp_path)
    for step in range(300):
        made.write(step, {"loss": 1.0})
    made.close()
    err = capfd.readouterr().err
    assert err.count("\n") == 1 and "No space left on device" in err and "metrics.jsonl goes on" in err
    monkeypatch.undo()
    (tmp_path / "tensorboard").write_text("a file in the way")
    rows(tmp_path, range(1, 4))
    assert len(read_metrics(tmp_path)) == 3 and "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize(("number", "ended"), [(signal.SIGTERM, SystemExit), (signal.SIGINT, KeyboardInterrupt)])
def test_a_stop_that_ends_a_compiler_in_the_middle_of_a_step_is_a_stop(
    small: Small, new_run: MakeRun, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, ended: type[BaseException]
) -> None:
    run = new_run(small("phase1.checkpoint_every=100", "phase1.steps=8"), "run")
    plain, calls = WorldModelPhase.loss, []

    def loss(self, work, step):
        calls.append(step)
        if len(calls) == 4:  # a Ctrl-C goes to the compiler too, and torch makes an error of its end
            os.kill(os.getpid(), number)
            raise RuntimeError("C++ compile error")
        return plain(self, work, step)

    monkeypatch.setattr(WorldModelPhase, "loss", loss)
    with pytest.raises(ended) as caught:
        train(small("phase1.checkpoint_every=100", "phase1.steps=8"), run, 1)
    assert ended is KeyboardInterrupt or caught.value.code == 143
    assert [load_checkpoint(path).step for path in steps_in(run / "checkpoints" / "phase1")] == [3]
