"""A resumed run gives the bits of an uninterrupted one, and a run killed while saving keeps a checkpoint."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from fastdreamer.config import Config
from fastdreamer.errors import UserError
from fastdreamer.run.checkpoint import load_checkpoint, steps_in
from fastdreamer.run.metrics import read_metrics
from fastdreamer.settings import dump_config
from fastdreamer.training.train import train

MakeRun = Callable[..., Path]


class StopAfter:
    """Sends this process SIGTERM once a phase has done some steps, as a batch system would."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
        from fastdreamer.training import optim

        self.calls, self.steps, self.inner = 0, steps, optim.EMA.update
        monkeypatch.setattr(optim.EMA, "update", lambda ema, *a: self.update(ema, *a))

    def update(self, ema: object, *args: object) -> None:
        self.inner(ema, *args)  # type: ignore[arg-type]
        self.calls += 1
        if self.calls == self.steps:
            os.kill(os.getpid(), signal.SIGTERM)


def checkpoints_equal(a: Path, b: Path) -> bool:
    one, two = load_checkpoint(a), load_checkpoint(b)
    assert one.tensors.keys() == two.tensors.keys() and one.step == two.step
    return all(
        torch.equal(tensor, two.tensors[group][name])
        for group, tensors in one.tensors.items()
        for name, tensor in tensors.items()
    )


def timeless(run: Path) -> list[dict[str, Any]]:
    """A run's metrics but for the one that is measured with a clock."""
    return [{name: value for name, value in row.items() if name != "data/wait_share"} for row in read_metrics(run)]


EVERY_OPTION = [
    "sampling.short_window=3",
    "sampling.long_every=2",
    "sampling.single_step=0.3",
    "sampling.reward_weighted=0.3",
    "sampling.unlabelled=0.4",
]


def test_a_resumed_run_with_every_sampling_option_and_a_thread_equals_an_uninterrupted_one_without(
    small: Callable[..., Config], mixed_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small(*EVERY_OPTION, "phase1.steps=12")
    ahead = small(*EVERY_OPTION, "phase1.steps=12", "sampling.prefetch=3", "data.memory_limit_gb=0")
    straight, broken = mixed_run(config, "straight"), mixed_run(ahead, "broken")
    for phase, stop_at in ((1, 7), (2, 4), (3, 3)):
        train(config, straight, phase)
        with monkeypatch.context() as patch, pytest.raises(SystemExit):
            StopAfter(patch, stop_at)
            train(ahead, broken, phase)
        train(ahead, broken, phase, resume=True)
        folder = Path("checkpoints") / f"phase{phase}"
        assert checkpoints_equal(straight / folder, broken / folder), f"phase {phase}"
    assert timeless(straight) == timeless(broken)


@pytest.mark.parametrize("readout", ["latents", "agent_tokens"])
def test_a_stopped_and_resumed_run_equals_an_uninterrupted_one_bit_for_bit(
    small: Callable[..., Config], new_run: MakeRun, monkeypatch: pytest.MonkeyPatch, readout: str
) -> None:
    extra = [] if readout == "latents" else ["heads.readout=agent_tokens", "dynamics.agent_tokens=2"]
    config = small("heads.policy_dropout=0.3", *extra)  # dropout draws from torch's own generator
    straight, broken = new_run(config, "straight"), new_run(config, "broken")
    for phase, stop_at in ((1, 4), (2, 4), (3, 3)):
        train(config, straight, phase)
        with monkeypatch.context() as patch, pytest.raises(SystemExit) as stopped:
            StopAfter(patch, stop_at)
            train(config, broken, phase)
        assert stopped.value.code == 143
        newest = steps_in(broken / "checkpoints" / f"phase{phase}")[-1]
        assert newest.name == f"step-{stop_at:08d}", "the step in hand was saved"
        train(config, broken, phase, resume=True)
        folder = Path("checkpoints") / f"phase{phase}"
        assert checkpoints_equal(straight / folder, broken / folder), f"phase {phase}"
    assert timeless(straight) == timeless(broken)


def test_resuming_with_other_training_settings_is_refused(small: Callable[..., Config], new_run: MakeRun) -> None:
    config = small()
    run = new_run(config)
    train(config, run, 1)
    other = replace(config, phase1=replace(config.phase1, learning_rate=0.5))
    with pytest.raises(UserError, match=r"phase1\.learning_rate=0\.0003, the configuration says 0\.5"):
        train(other, run, 1, resume=True)


KILL_SCRIPT = """
import sys
from pathlib import Path
from fastdreamer.config import load_config
from fastdreamer.training.train import train
train(load_config(sys.argv[1]), Path(sys.argv[2]), 1)
"""


def test_kill_minus_nine_while_saving_leaves_a_checkpoint_that_resumes(
    small: Callable[..., Config], new_run: MakeRun
) -> None:
    config = small("compile=off", "phase1.steps=100000", "phase1.warmup_steps=1", "phase1.checkpoint_every=1")
    run = new_run(config)
    dump_config(config, run / "config.yaml")
    folder = run / "checkpoints" / "phase1"
    for attempt in range(3):
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "OMP_NUM_THREADS": "1"}
        script = KILL_SCRIPT if attempt == 0 else KILL_SCRIPT.replace(", 1)", ", 1, resume=True)")
        child = subprocess.Popen(
            [sys.executable, "-c", script, str(run / "config.yaml"), str(run)], env=environment, stderr=subprocess.PIPE
        )
        before = len(steps_in(folder)) and load_checkpoint(folder).step
        deadline = time.monotonic() + 60
        while not (steps_in(folder) and int(steps_in(folder)[-1].name[5:]) >= before + 3):
            assert child.poll() is None, child.stderr and child.stderr.read().decode()
            assert time.monotonic() < deadline
            time.sleep(0.003 * (attempt + 1))
        child.kill()
        child.wait()
        assert child.stderr is not None
        child.stderr.close()
        assert load_checkpoint(folder).step >= before + 3, "whatever the kill hit, the newest checkpoint is whole"
