"""The training loop all phases share: optimiser steps, EMA, checkpoints, metrics, progress, and stopping well."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor

from fastdreamer.config import Config, TrainConfig
from fastdreamer.device import Backend, random_states, set_random_states
from fastdreamer.errors import Stopped, UserError
from fastdreamer.health.limits import section
from fastdreamer.health.watch import Watch
from fastdreamer.latents.loader import Loader
from fastdreamer.run.checkpoint import Checkpoint, not_finite, save_checkpoint
from fastdreamer.run.lock import place_of, run_lock
from fastdreamer.run.metrics import MetricsWriter
from fastdreamer.run.run_files import checkpoints_of
from fastdreamer.system.advice import plain
from fastdreamer.system.failures import stop_signals
from fastdreamer.system.files import scratch_directory
from fastdreamer.system.leftovers import sweep
from fastdreamer.system.progress import track
from fastdreamer.training.optim import EMA, learning_rate
from fastdreamer.training.phase import Phase
from fastdreamer.training.step import Best, Update
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
    closes. Ctrl-C does the same and raises KeyboardInterrupt.
    Any exception leaves a checkpoint of the last whole step too, if the disk takes one.

    Raises:
        Stopped: after `max_skipped` skipped steps in a row, at the next one that is logged or saved; the weights before
            them are saved. Or where the weights themselves are not finite: then the older checkpoints stay.
    """
    update = Update(phase, train, backend)
    optimizers, ema, name = update.optimizers, update.ema, title or f"phase {phase.number}"
    best = Best(phase, ema, phase.patience, train.steps)
    done = 0
    if resume_from is not None:
        done = resume_from.step
        _restore(resume_from, phase, optimizers, ema, backend.device)
        best.restore(resume_from.tensors, resume_from.state)
        update.skips.restore(*resume_from.state.get("skipped", (0, 0)))
    noted = resume_from.state.get("compiled") if resume_from is not None else None
    when = WhenToCompile(config, phase.number, backend, train.steps, name, noted)
    run_dir, saved = run_dir.resolve(), done

    def save(step: int, skipped: tuple[int, int]) -> None:
        nonlocal saved
        if broken := not_finite({"model": phase.model.state_dict(), "ema": ema.state}):
            raise Stopped(_broken(phase.number, name, step, broken, train.learning_rate))
        groups = {
            "model": phase.model.state_dict(),
            "ema": ema.state,
            "best": best.state,
            "optimizer": _optimizer_tensors(optimizers),
            "random": {name: g.get_state() for name, g in phase.generators.items()} | random_states(backend.device),
        }
        groups |= {f"frozen-{name}": module.state_dict() for name, module in phase.frozen.items()}
        notes = {"skipped": skipped, "forced": list(forced), "threads": torch.get_num_threads()}
        notes |= best.note() | when.note()
        place = place_of(run_dir)
        save_checkpoint(checkpoints_of(place, phase.number), phase.number, step, groups, config, latents, notes)
        saved = step
        if place != run_dir:
            raise Stopped(_moved(phase.number, name, step, run_dir, place))

    def rescue() -> None:
        """Save after an exception what was trained since the last checkpoint, unless a step was being taken in."""
        if update.is_whole and done > saved:
            with suppress(Exception):  # the disk may be the reason; the exception at hand says more
                if due is not None:  # memory may have run out while they were reckoned
                    metrics.write(done, reckon(*due))
                elif computed == done > metrics.step:  # or the line would be missing for good
                    metrics.write(done, figures)
                save(done, update.skips.read())
                print(f"{name}: step {done} is saved, --resume goes on from it", file=sys.stderr, flush=True)

    def reckon(logged: Mapping[str, Tensor], norm: Tensor, step: int, skipped: int) -> dict[str, float]:
        """The figures of a logged step, from the sums over its micro-batches."""
        sums = dict(logged)
        loss = float(sums.pop("loss"))
        found = {k: float(v) for k, v in phase.figures(sums, step).items()}
        found |= {"loss": loss, "grad_norm": float(norm), "learning_rate": learning_rate(train, step)}
        return found | best.figures() | {"skipped_steps": float(skipped)}

    computed = done  # the step of the figures
    due: tuple[Mapping[str, Tensor], Tensor, int, int] | None = None  # a logged step without its figures yet
    phase.model.train()
    with (
        run_lock(run_dir),
        phase.loader or nullcontext(),
        MetricsWriter(run_dir, phase.number, done) as metrics,
        track(name, total=train.steps, unit="steps", start=done) as bar,
        _stop_requests() as stop,
    ):
        with scratch_directory(checkpoints_of(run_dir, phase.number)) as probe:  # the disk refuses before the work
            sweep(probe.parent)
        own = [gate for gate in forced if gate["phase"] == phase.number]
        watch = Watch(config, phase.number, run_dir, done, name, own)
        waiting = _Waiting(phase.loader) if phase.loader is not None else None
        figures = watch.figures
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
                is_last = done == train.steps or best.is_over
                is_saving = bool(stop) or done % train.checkpoint_every == 0 or is_last
                is_logging = done % train.log_every == 0 or done == 1 or is_last
                skipped, in_a_row = update.skips.read() if is_saving or is_logging else (0, 0)
                is_lost = in_a_row >= train.max_skipped
                if is_logging:
                    due = logged, norm, step, skipped
                    figures, due = reckon(*due), None
                    shown: dict[str, float | str] = {"loss": figures["loss"]}
                    if waiting is not None:
                        figures["data/wait_share"] = waiting.share()
                        shown["waiting"] = f"{figures['data/wait_share']:.1%}"
                    computed = done
                    metrics.write(done, figures)
                    bar.advance(0, **shown)
                    watch.see(done, figures)
                bar.advance(1)
                if is_saving or is_lost:
                    save(done, (skipped, 0 if is_lost else in_a_row))
                    if waiting is not None:
                        waiting.restart()  # saving is no step
                if is_lost:
                    raise Stopped(_lost(phase.number, name, done, in_a_row, train.learning_rate))
                if stop:
                    raise _stopped(stop[0])
                if best.is_over:
                    break
        except Stopped:
            raise
        except Exception as error:
            rescue()
            if stop:  # a compiler gets a Ctrl-C too, and its end is an error to torch
                raise _stopped(stop[0]) from error
            raise
        finally:
            when.finish()
    if done < train.steps:
        print(f"{name}: held-out loss is least at step {best.step}, whose averages count; ended at {done}", flush=True)
    return figures


def _moved(number: int, name: str, step: int, then: Path, now: Path) -> str:
    return (
        f"{then} was moved to {now} while {name} trained: step {step} is saved there, and it goes on with: "
        f"{plain('train', run_dir=now, phase=max(number, 1), resume=True)}"
    )


def _lost(number: int, name: str, step: int, in_a_row: int, rate: float) -> str:
    return (
        f"{name} stopped at step {step}: the loss or gradient of its last {in_a_row} steps was not finite, so they "
        f"were skipped. The weights before them are saved: --resume goes on with those; in another --run-dir try "
        f"{section(number)}.learning_rate below {rate:g}"
    )


def _broken(number: int, name: str, step: int, tensor: str, rate: float) -> str:
    return (
        f"{name} stopped at step {step}: {tensor} is not finite, so nothing was saved and older checkpoints stay. In "
        f"another --run-dir try {section(number)}.learning_rate below {rate:g}"
    )


def _restore(
    saved: Checkpoint, phase: Phase[Any], optimizers: Sequence[torch.optim.Optimizer], ema: EMA, device: torch.device
) -> None:
    with _fitting(saved):
        phase.model.load_state_dict(saved.tensors["model"])
        means = saved.tensors["ema"]
        if {k: v.shape for k, v in means.items()} != {k: v.shape for k, v in ema.state.items()}:
            raise ValueError("its averages are not those of this phase's weights")
        ema.state = {k: v.to(ema.state[k].device) for k, v in means.items()}
        states: list[dict[int, dict[str, Tensor]]] = [{} for _ in optimizers]
        for name, value in saved.tensors.get("optimizer", {}).items():
            owner, index, key = name.split(".", 2)
            states[int(owner)].setdefault(int(index), {})[key] = value
        for optimizer, state in zip(optimizers, states, strict=True):
            sizes = [weight.numel() for group in optimizer.param_groups for weight in group["params"]]
            if any(x.numel() not in (1, sizes[index]) for index, entry in state.items() for x in entry.values()):
                raise ValueError("its optimiser is not that of this phase's weights")
            optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
        for name, generator in phase.generators.items():
            generator.set_state(saved.tensors["random"][name])
        set_random_states(saved.tensors["random"], device)


@contextmanager
def _fitting(saved: Checkpoint) -> Iterator[None]:
    """What a checkpoint that is whole may hold all the same: other tensors than a phase is made of."""
    try:
        yield
    except UserError:
        raise
    except (RuntimeError, LookupError, ValueError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"{saved.path} was begun with another version and cannot go on: train the phase in another --run-dir "
            f"({reason})"
        ) from None


def _optimizer_tensors(optimizers: Sequence[torch.optim.Optimizer]) -> dict[str, Tensor]:
    """The state of every optimiser as tensors named optimiser.parameter.key."""
    states = [optimizer.state_dict()["state"] for optimizer in optimizers]
    return {
        f"{number}.{index}.{key}": value
        for number, state in enumerate(states)
        for index, entry in state.items()
        for key, value in entry.items()
    }


def _stopped(number: int) -> BaseException:
    """What ends a phase that a signal asked to stop."""
    return KeyboardInterrupt() if number == signal.SIGINT else SystemExit(128 + number)


class _Waiting:
    """Share of the time since the last reading that went by waiting for batches (see Loader.waited_s)."""

    def __init__(self, loader: Loader) -> None:
        self.loader = loader
        self.restart()

    def restart(self) -> None:
        self.began_s, self.waited_s = time.perf_counter(), self.loader.waited_s

    def share(self) -> float:
        """The share, from 0 to 1; a new reading begins."""
        began_s, waited_s = self.began_s, self.waited_s
        self.restart()
        return (self.waited_s - waited_s) / (self.began_s - began_s)


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
