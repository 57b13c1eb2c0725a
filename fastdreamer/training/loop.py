"""The training loop all phases share: optimiser steps, EMA, checkpoints, metrics, progress, and stopping well."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import FrameType
from typing import Any

from fastdreamer.config import Config, TrainConfig
from fastdreamer.device import Backend
from fastdreamer.errors import Ended, Lost, Stopped
from fastdreamer.ranks.sharding import WHOLE, Shards
from fastdreamer.run.checkpoint import Checkpoint
from fastdreamer.run.lock import run_lock
from fastdreamer.system.failures import stop_signals
from fastdreamer.training.best import Best
from fastdreamer.training.keeping import Keeper, lost
from fastdreamer.training.phase import Phase
from fastdreamer.training.restoring import restore
from fastdreamer.training.step import Update
from fastdreamer.training.when_to_compile import WhenToCompile


def fit(
    phase: Phase[Any],
    config: Config,
    train: TrainConfig,
    run_dir: Path,
    backend: Backend,
    latents: str,
    resume_from: Checkpoint | None = None,
    title: str = "",
    forced: Sequence[Mapping[str, Any]] = (),
) -> dict[str, float]:
    """Trains a phase to its last step and returns the last logged figures.

    `latents` is the fingerprint of the tokenizer behind the data; every checkpoint carries it.

    A step whose loss or gradient is not finite is skipped (see `Skips`). Every logging step is watched (see `Watch`).

    `forced` are the gates that the phase and those before it were forced past: every checkpoint says so.

    SIGTERM saves a checkpoint after the step in hand and exits 143, and so does SIGHUP, with 129: a terminal that
    closes. Ctrl-C does the same and raises KeyboardInterrupt. One that comes while the last step is saved counts too.
    Any exception leaves a checkpoint of the last whole step too, if the disk takes one.

    Where several ranks train together (see `ranks`), all call this and take every step; what they hold alike is
    compared before the first step, at every checkpoint and every `ranks.check_every` steps.

    Raises:
        Stopped: after `max_skipped` skipped steps in a row, at the next one that is logged or saved; the weights before
            them are saved. Or where the weights themselves are not finite: then the older checkpoints stay.
    """
    name, ranks = title or f"phase {phase.number}", backend.ranks
    update = Update(phase, train, backend, config.seed, shards_of(phase, config, backend))
    best = Best(phase, update.ema, phase.patience, train.steps, ranks)
    done = 0
    if resume_from is not None:
        done = resume_from.step
        restore(resume_from, update, backend.device)
        best.restore(resume_from.tensors, resume_from.state)
        update.skips.restore(*resume_from.state.get("skipped", (0, 0)))
    noted = resume_from.state.get("compiled") if resume_from is not None else None
    when = WhenToCompile(config, phase.number, backend, train.steps, name, noted)
    keeper = Keeper(update, config, run_dir.resolve(), backend, latents, name, best, when, forced, done)

    phase.model.train()
    with run_lock(keeper.run_dir), phase.loader or nullcontext(), keeper.opened(), _stop_requests() as stop:
        ranks.listen(stop)
        if not ranks.is_alone:
            ranks.compare(keeper.alike() | keeper.frozen(), f"{name} before its first step")
        try:
            for step in range(done, done if best.is_over else train.steps):
                began_s = time.perf_counter()
                logged, norm = update(step)
                done = step + 1
                when.see(done, time.perf_counter() - began_s)
                if best.looks(done):
                    update.is_whole = False  # until it has looked: a resumed run must not miss it
                    best.see(done)
                    update.is_whole = True
                stopped_by = ranks.stopped_by(stop)
                is_last = done == train.steps or best.is_over
                is_saving = bool(stopped_by) or done % train.checkpoint_every == 0 or is_last
                is_logging = done % train.log_every == 0 or done == 1 or is_last
                skipped, in_a_row = update.skips.read() if is_saving or is_logging else (0, 0)
                is_lost = in_a_row >= train.max_skipped
                if is_logging:
                    keeper.log(done, (logged, norm, step, skipped))
                keeper.advance()
                if not ranks.is_alone and (is_saving or is_lost or ranks.checks(done)):
                    ranks.compare(keeper.alike(), f"{name} after step {done}")
                if is_saving or is_lost:
                    keeper.save(done, (skipped, 0 if is_lost else in_a_row))
                if is_lost:
                    rate = train.learning_rate
                    raise Lost(lost(phase.number, name, done, in_a_row, rate, ranks.not_finite()))
                if stopped_by:
                    raise _stopped(stopped_by)
                if best.is_over:
                    break
        except Stopped:
            raise
        except Exception as error:
            keeper.rescue(done)
            if stop and not isinstance(error, Ended):  # a compiler gets a Ctrl-C too, and its end is an error to torch
                raise _stopped(stop[0]) from error
            raise
        finally:
            when.finish()
        with ranks.together():  # on signals that came after the last step, while it was logged and saved
            pass
    if stopped_by := ranks.stopped_by(stop):
        raise _stopped(stopped_by)
    if done < train.steps:
        print(f"{name}: held-out loss is least at step {best.step}, whose averages count; ended at {done}", flush=True)
    return keeper.figures


def shards_of(phase: Phase[Any], config: Config, backend: Backend) -> Shards:
    """Shards what of a phase may be, where several ranks are told to."""
    if backend.ranks.is_alone or not config.ranks.shard or phase.transformer is None:
        return WHOLE
    return backend.ranks.shard(phase.model, phase.transformer, backend.precision == "bf16")


def _stopped(number: int) -> BaseException:
    """What ends a phase that a signal asked to stop."""
    return KeyboardInterrupt() if number == signal.SIGINT else SystemExit(128 + number)


@contextmanager
def _stop_requests() -> Iterator[list[int]]:
    """A list that the signals to stop append to, so that the loop stops between steps; handlers are put back after."""
    requests: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        requests.append(number)

    try:
        before = {s: signal.signal(s, note) for s in stop_signals()}
    except ValueError:  # not the main thread: nobody sends us signals here
        before = {}
    try:
        yield requests
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
