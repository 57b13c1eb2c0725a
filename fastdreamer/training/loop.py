"""The training loop all phases share: optimiser steps, EMA, checkpoints, metrics, progress, and stopping well."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn

from fastdreamer.config import Config, TrainConfig
from fastdreamer.data.feed import Feed
from fastdreamer.device import Backend
from fastdreamer.errors import UserError
from fastdreamer.progress import track
from fastdreamer.training.checkpoint import Checkpoint, save_checkpoint
from fastdreamer.training.metrics import MetricsWriter
from fastdreamer.training.optim import Average, learning_rate
from fastdreamer.training.phase import Phase
from fastdreamer.training.update import Update


def fit(
    phase: Phase[Any],
    config: Config,
    train: TrainConfig,
    run_dir: Path,
    backend: Backend,
    latents: str,
    resume_from: Checkpoint | None = None,
    title: str = "",
) -> dict[str, float]:
    """Trains a phase to its last step and returns the last logged figures.

    `latents` is the fingerprint of the tokenizer behind the data; every checkpoint carries it.

    SIGTERM saves a checkpoint after the step in hand and exits 143; Ctrl-C does the same and raises KeyboardInterrupt.

    Raises:
        UserError: if the gradient is no longer finite; the last checkpoint is from before.
    """
    update = Update(phase, train, backend)
    optimizers, average = update.optimizers, update.average
    done = 0
    if resume_from is not None:
        done = resume_from.step
        _restore(resume_from, phase, optimizers, average)
    folder = run_dir / "checkpoints" / f"phase{phase.number}"

    def save(step: int) -> None:
        groups = {
            "model": phase.model.state_dict(),
            "ema": average.state,
            "optimizer": _optimizer_tensors(optimizers),
            "random": {name: g.get_state() for name, g in phase.generators.items()} | {"torch": torch.get_rng_state()},
        }
        groups |= {f"frozen-{name}": module.state_dict() for name, module in phase.frozen.items()}
        save_checkpoint(folder, phase.number, step, groups, config, latents)

    figures: dict[str, float] = {}
    phase.model.train()
    with (
        phase.feed or nullcontext(),
        MetricsWriter(run_dir, phase.number, done) as metrics,
        track(title or f"phase {phase.number}", total=train.steps, unit="steps", start=done) as bar,
        _stop_requests() as stop,
    ):
        waiting = _Waiting(phase.feed) if phase.feed is not None else None
        for step in range(done, train.steps):
            logged, norm = update(step)
            done = step + 1
            is_saving = bool(stop) or done % train.checkpoint_every == 0 or done == train.steps
            is_logging = done % train.log_every == 0 or done in (1, train.steps)
            if (is_saving or is_logging) and not torch.isfinite(norm):
                loss = float(logged["loss"])
                raise UserError(
                    f"phase {phase.number} diverged at step {done} (loss {loss}, gradient {norm:.3g}): start "
                    f"it again in another --run-dir with a lower learning_rate (now {train.learning_rate})"
                )
            if is_logging:
                loss = float(logged.pop("loss"))
                figures = {k: float(v) for k, v in phase.figures(logged, step).items()}
                figures |= {"loss": loss, "grad_norm": float(norm), "learning_rate": learning_rate(train, step)}
                shown: dict[str, float | str] = {"loss": figures["loss"]}
                if waiting is not None:
                    figures["data/wait_share"] = waiting.share()
                    shown["waiting"] = f"{figures['data/wait_share']:.1%}"
                metrics.write(done, figures)
                bar.advance(0, **shown)
            bar.advance(1)
            if is_saving:
                save(done)
                if waiting is not None:
                    waiting.restart()  # saving is no step
            if stop:
                if stop[0] == signal.SIGINT:
                    raise KeyboardInterrupt
                raise SystemExit(128 + stop[0])
    return figures


def load_weights(checkpoint: Checkpoint, model: nn.Module) -> None:
    """Puts a checkpoint's averaged weights into a model of the same architecture."""
    model.load_state_dict(checkpoint.tensors["ema"])


def _restore(
    saved: Checkpoint, phase: Phase[Any], optimizers: Sequence[torch.optim.Optimizer], average: Average
) -> None:
    phase.model.load_state_dict(saved.tensors["model"])
    average.state = {k: v.to(average.state[k].device) for k, v in saved.tensors["ema"].items()}
    for number, optimizer in enumerate(optimizers):
        state: dict[int, dict[str, Any]] = {}
        for name, value in saved.tensors["optimizer"].items():
            owner, index, key = name.split(".", 2)
            if int(owner) == number:
                state.setdefault(int(index), {})[key] = value
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    for name, generator in phase.generators.items():
        generator.set_state(saved.tensors["random"][name])
    torch.set_rng_state(saved.tensors["random"]["torch"])


def _optimizer_tensors(optimizers: Sequence[torch.optim.Optimizer]) -> dict[str, Tensor]:
    """The state of every optimiser as tensors named optimiser.parameter.key."""
    states = [optimizer.state_dict()["state"] for optimizer in optimizers]
    return {
        f"{number}.{index}.{key}": value
        for number, state in enumerate(states)
        for index, entry in state.items()
        for key, value in entry.items()
    }


class _Waiting:
    """Which share of the time since the last reading went by waiting for batches (see Feed.waited_s)."""

    def __init__(self, feed: Feed) -> None:
        self.feed = feed
        self.restart()

    def restart(self) -> None:
        self.began_s, self.waited_s = time.perf_counter(), self.feed.waited_s

    def share(self) -> float:
        """From 0 to 1; a new reading begins."""
        began_s, waited_s = self.began_s, self.waited_s
        self.restart()
        return (self.waited_s - waited_s) / (self.began_s - began_s)


@contextmanager
def _stop_requests() -> Iterator[list[int]]:
    """A list that SIGTERM and SIGINT append to, so that the loop stops between steps; handlers are put back after."""
    requests: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        requests.append(number)

    try:
        before = {s: signal.signal(s, note) for s in (signal.SIGTERM, signal.SIGINT)}
    except ValueError:  # not the main thread: nobody sends us signals here
        before = {}
    try:
        yield requests
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
