"""What a phase that trains leaves in its run: checkpoints, metrics, flags; and going on from a checkpoint."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastdreamer.config import Config
from fastdreamer.device import Backend, random_states
from fastdreamer.errors import Stopped, UserError
from fastdreamer.health.limits import section
from fastdreamer.health.watch import Watch
from fastdreamer.latents.loader import Loader
from fastdreamer.ranks.heartbeats import SAVING
from fastdreamer.ranks.membership import Ranks
from fastdreamer.run.checkpoint import not_finite, save_checkpoint
from fastdreamer.run.lock import place_of
from fastdreamer.run.metrics import MetricsWriter
from fastdreamer.run.rank_files import write_part
from fastdreamer.run.run_files import checkpoints_of
from fastdreamer.system.advice import plain
from fastdreamer.system.files import disk_errors, scratch_directory
from fastdreamer.system.leftovers import sweep
from fastdreamer.system.progress import Bar, track
from fastdreamer.training.best import Best
from fastdreamer.training.optim import learning_rate
from fastdreamer.training.restoring import held, rows_of, share
from fastdreamer.training.step import Update
from fastdreamer.training.when_to_compile import WhenToCompile

CHECKPOINT = "checkpoint"
Due = tuple[Mapping[str, Tensor], Tensor, int, int]
"""A logged step's figures as they came from the device, the gradient's norm, the step, and the skipped steps."""


class Keeper:
    """Writes for one phase; of several ranks the main one alone has one that writes.

    Attributes:
        figures: what the newest logged step came to.
        saved: the step of the newest checkpoint.
    """

    def __init__(
        self,
        update: Update,
        config: Config,
        run_dir: Path,
        backend: Backend,
        latents: str,
        title: str,
        best: Best,
        when: WhenToCompile,
        forced: Sequence[Mapping[str, Any]],
        done: int,
    ) -> None:
        self.update, self.phase, self.train, self.config = update, update.phase, update.train, config
        self.run_dir, self.backend, self.latents, self.title = run_dir, backend, latents, title
        self.best, self.when, self.forced = best, when, forced
        self.saved = self.computed = done
        self.figures: dict[str, float] = {}
        self.due: Due | None = None  # a logged step without its figures yet
        self.metrics: MetricsWriter
        self.watch: Watch
        self.bar: Bar
        self.waiting: Waiting | None = None

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Opens the files; the disk refuses before the work."""
        if not self.backend.ranks.is_main:
            yield
            return
        phase, done = self.phase, self.saved
        with (
            MetricsWriter(self.run_dir, phase.number, done) as self.metrics,
            track(self.title, total=self.train.steps, unit="steps", start=done) as self.bar,
        ):
            with scratch_directory(checkpoints_of(self.run_dir, phase.number)) as probe:
                sweep(probe.parent)
            own = [gate for gate in self.forced if gate["phase"] == phase.number]
            self.watch = Watch(self.config, phase.number, self.run_dir, done, self.title, own)
            self.waiting = Waiting(phase.loader) if phase.loader is not None else None
            self.figures = self.watch.figures
            yield

    def log(self, done: int, due: Due) -> None:
        """Reckons a logged step's figures, writes them and has them judged."""
        if not self.backend.ranks.is_main:
            return
        self.due = due
        self.figures, self.due = self._reckon(*due), None
        shown: dict[str, float | str] = {"loss": self.figures["loss"]}
        if self.waiting is not None:
            self.figures["data/wait_share"] = self.waiting.share()
            shown["waiting"] = f"{self.figures['data/wait_share']:.1%}"
        self.computed = done
        self.metrics.write(done, self.figures)
        self.bar.advance(0, **shown)
        self.watch.see(done, self.figures)

    def advance(self) -> None:
        """Counts a step that was taken."""
        if self.backend.ranks.is_main:
            self.bar.advance(1)

    def save(self, step: int, skipped: tuple[int, int]) -> None:
        """Writes a checkpoint; all ranks wait for it. Of what is sharded each writes its share.

        Raises:
            Stopped: if a weight is not finite, or the run was moved.
            UserError: if the disk refuses.
        """
        groups = share(self.update)
        if self.backend.ranks.is_main:
            self._save(step, skipped, groups)
        elif self.update.shards:
            self._save_part(step, groups)
        self.backend.ranks.meet(f"phase {self.phase.number} saved {step}")
        if self.waiting is not None:
            self.waiting.restart()  # saving is no step

    def rescue(self, done: int) -> None:
        """Save after an exception what was trained since the last checkpoint, unless a step was being taken in.

        One rank cannot save alone what is sharded.
        """
        if self.update.is_whole and done > self.saved and self.backend.ranks.is_main and not self.update.shards:
            with suppress(Exception):  # the disk may be the reason; the exception at hand says more
                if self.due is not None:  # memory may have run out while they were reckoned
                    self.metrics.write(done, self._reckon(*self.due))
                elif self.computed == done > self.metrics.step:  # or the line would be missing for good
                    self.metrics.write(done, self.figures)
                self._save(done, self.update.skips.read(), share(self.update))
                print(f"{self.title}: step {done} is saved, --resume goes on from it", file=sys.stderr, flush=True)

    def alike(self) -> dict[str, Mapping[str, Tensor]]:
        """What all ranks hold, bit for bit: nothing that is sharded."""
        rows = rows_of(self.update)
        return {
            group: {name: value for name, value in tensors.items() if name not in rows.get(group, {})}
            for group, tensors in held(self.update).items()
        }

    def frozen(self) -> dict[str, Mapping[str, Tensor]]:
        """The modules that it was built on."""
        return {f"frozen-{name}": module.state_dict() for name, module in self.phase.frozen.items()}

    def _save_part(self, step: int, groups: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Writes this rank's share into the folder that the main one fills."""
        ranks = self.backend.ranks
        ranks.at(SAVING)
        self._check_finite(step, groups)
        folder = Path(ranks.from_main(CHECKPOINT, ""))
        if not folder.is_dir():
            raise UserError(
                f"{folder}, where the main rank writes step {step}, is not there for this one: put --run-dir on a disk "
                "that all ranks share, at one path"
            )
        with disk_errors(folder):
            hashes = write_part(folder, ranks.rank, groups)
        ranks.collect(CHECKPOINT, hashes)

    def _check_finite(self, step: int, groups: Mapping[str, Mapping[str, Tensor]]) -> None:
        if broken := not_finite({name: groups[name] for name in ("model", "ema")}):
            raise Stopped(_broken(self.phase.number, self.title, step, broken, self.train.learning_rate))

    def _save(self, step: int, skipped: tuple[int, int], groups: dict[str, Mapping[str, Tensor]]) -> None:
        self.backend.ranks.at(SAVING)
        phase = self.phase
        self._check_finite(step, groups)
        groups["random"] = {**groups["random"], **random_states(self.backend.device)}
        groups |= {"best": self.best.state} | self.frozen()
        notes = {"skipped": skipped, "forced": list(self.forced), "threads": torch.get_num_threads()}
        notes |= self.best.note() | self.when.note()
        place = place_of(self.run_dir)
        folder = checkpoints_of(place, phase.number)
        others = Writers(self.backend.ranks) if self.update.shards else None
        save_checkpoint(folder, phase.number, step, groups, self.config, self.latents, notes, others)
        self.saved = step
        if place != self.run_dir:
            raise Stopped(_moved(phase.number, self.title, step, self.run_dir, place))

    def _reckon(self, logged: Mapping[str, Tensor], norm: Tensor, step: int, skipped: int) -> dict[str, float]:
        """The figures of a logged step, from the sums over its micro-batches."""
        sums = dict(logged)
        loss = float(sums.pop("loss"))
        found = {k: float(v) for k, v in self.phase.figures(sums, step).items()}
        found |= {"loss": loss, "grad_norm": float(norm), "learning_rate": learning_rate(self.train, step)}
        return found | self.best.figures() | {"skipped_steps": float(skipped)}


def lost(number: int, name: str, step: int, in_a_row: int, rate: float, ranks: Sequence[int]) -> str:
    """The line for a phase whose steps were all skipped; `ranks` are those whose own gradients were not finite."""
    where = f" (of rank {', '.join(map(str, ranks))})" if ranks else ""
    return (
        f"{name} stopped at step {step}: the loss or gradient of its last {in_a_row} steps was not finite{where}, so "
        f"they were skipped. The weights before them are saved: --resume goes on with those; in another --run-dir try "
        f"{section(number)}.learning_rate below {rate:g}"
    )


def _moved(number: int, name: str, step: int, then: Path, now: Path) -> str:
    return (
        f"{then} was moved to {now} while {name} trained: step {step} is saved there, and it goes on with: "
        f"{plain('train', run_dir=now, phase=max(number, 1), resume=True)}"
    )


def _broken(number: int, name: str, step: int, tensor: str, rate: float) -> str:
    return (
        f"{name} stopped at step {step}: {tensor} is not finite, so nothing was saved and older checkpoints stay. In "
        f"another --run-dir try {section(number)}.learning_rate below {rate:g}"
    )


class Writers:
    """The other ranks, which write their shares of a checkpoint (`rank_files.Others`)."""

    def __init__(self, ranks: Ranks) -> None:
        self.ranks = ranks

    def begin(self, folder: Path) -> None:
        """Tells them the folder."""
        self.ranks.from_main(CHECKPOINT, str(folder.absolute()))

    def finish(self) -> dict[str, str]:
        """Waits for them."""
        hashes: dict[str, str] = {}
        for one in self.ranks.collect(CHECKPOINT, hashes):
            hashes |= one
        return hashes


class Waiting:
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
