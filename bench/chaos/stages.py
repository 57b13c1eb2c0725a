"""The commands that are disturbed, on inputs so small that one takes a second, and what they leave undisturbed."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import shutil
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bench.chaos.children import Child, Ended
from bench.chaos.rows import Clock
from fastdreamer import cli
from fastdreamer.recordings.actions import action_space
from fastdreamer.recordings.trajectory import Trajectory
from fastdreamer.recordings.writer import write_recording
from fastdreamer.tokenizer.fitting import bottleneck, fit

SMALL = (
    "device=cpu", "precision=fp32", "compile=off", "seed=3", "record.episodes=2", "record.max_steps=20",
    "phase1.steps=6", "phase1.checkpoint_every=2", "phase2.steps=6", "phase2.checkpoint_every=2", "phase3.steps=4",
    "phase3.checkpoint_every=2", "phase1.batch_size=2", "phase2.batch_size=2", "phase3.batch_size=2",
    "decoder.steps=4", "decoder.checkpoint_every=2", "decoder.batch_size=2", "phase1.max_skipped=3",
    "phase2.max_skipped=3", "phase3.max_skipped=3", "decoder.max_skipped=3", "tokenizer_fit.max_skipped=2",
    "tokenizer_fit.steps=4", "evaluation.episodes=2", "evaluation.max_steps=9", "evaluation.crops=2",
    "evaluation.workers=1", "evaluation.context=1", "tokenizer.window=9", "dynamics.window=3", "dynamics.context=3",
    "dynamics.dim=16", "dynamics.layers=2", "dynamics.time_every=2", "imagination.horizon=2",
)  # fmt: skip
FITTED = ("tokenizer={frames_per_latent: 1, window: 1, image_size: 32, pool: 1, encoder_channels: [8, 8, 8]}",)
NAMES = ("record", "encode", "fit-tokenizer", "phase1", "phase2", "phase3", "eval", "report")
LITTER = (".tmp", ".old-", ".probe", ".scratch")


@dataclass
class Bench:
    """A folder with a run, which is put back before every try.

    Attributes:
        before: the folder as a stage finds it.
        after: its content when the stage was not disturbed.
        seconds: what the stage takes.
    """

    root: Path
    before: dict[str, Path] = field(default_factory=dict)
    after: dict[str, dict[str, str]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def work(self) -> Path:
        return self.root / "work"

    @property
    def run(self) -> Path:
        return self.work / "run"

    def build(self, stages: tuple[str, ...]) -> list[str]:
        """Run those stages that were not yet, one after another, undisturbed; what failed, a line each."""
        if self.after:
            return []
        made = Child(lambda: write_recordings(self.run / "recordings", 3)).end()
        if made.code:
            return [f"recordings cannot be made: {made.last_line}"]
        for stage in stages:
            kept = self.root / "before" / stage
            shutil.copytree(self.work, kept, symlinks=True)
            self.before[stage] = kept
            began = time.monotonic()
            ended = self.finish(stage)
            self.seconds[stage] = time.monotonic() - began
            if ended.code:
                return [f"{stage} fails undisturbed ({ended.code}): {ended.last_line}"]
            self.after[stage] = content(self.work)
        return []

    def restore(self, stage: str) -> None:
        """The folder as the stage finds it."""
        shutil.rmtree(self.work, ignore_errors=True)
        shutil.copytree(self.before[stage], self.work, symlinks=True)

    def words(self, stage: str) -> list[str]:
        """The command line that a user would give now."""
        run, flags = str(self.run), ["--run-dir", str(self.run)]
        if stage == "record":
            return ["record", "--config", "debug", "--out", str(self.work / "recorded"), *SMALL]
        if stage == "fit-tokenizer":
            folders = ["--recordings", f"{run}/recordings", "--out", str(self.work / "tokenizer")]
            return ["fit-tokenizer", "--config", "debug", *folders, *SMALL, *FITTED]
        if stage.startswith("phase"):
            has_begun = any((self.run / "checkpoints" / stage).glob("step-*"))
            return ["train", "--phase", stage[-1], *flags, "--force", *(["--resume"] if has_begun else [])]
        if stage == "encode":
            return ["encode", *flags, "--config", "debug", *SMALL]
        return [stage, *flags]

    def command(self, stage: str, forks: bool = False) -> None:
        """Run the command in a child, as the console script runs it; with `forks` its workers are forked, not spawned.

        A forked worker begins in no time and has what its parent patched.
        """
        module: Any = fit  # its start is a regression over thousands of frames, which has nothing to do with files
        module.start_linear = lambda *given: None
        decoder: Any = bottleneck.DenseDecoder
        decoder.solve = lambda *given: None  # another one
        if forks:
            context = multiprocessing.get_context("fork")
            made: Any = multiprocessing
            made.get_context = lambda method=None: context
        sys.argv = ["fastdreamer", *self.words(stage)]
        cli.run()

    def again(self, stage: str, is_same: bool = True, forks: bool = False) -> list[str]:
        """Run the stage undisturbed after it was disturbed: what is not as it would have been, a line each.

        Without `is_same` it is enough that it ends well and leaves no litter.
        """
        return self.left(stage, self.finish(stage, forks), is_same)

    def left(self, stage: str, ended: Ended, is_same: bool = True) -> list[str]:
        """What is not as it should be after a run that was not disturbed, and ended so."""
        found = content(self.work)
        return differences(ended, self.after[stage] if is_same else found, found, stage)

    def is_done(self, stage: str) -> bool:
        """Whether all is as the stage leaves it undisturbed."""
        return not differences(Ended(0, ""), self.after[stage], content(self.work), stage)

    def finish(self, stage: str, forks: bool = False) -> Ended:
        """Run the stage undisturbed."""
        return Child(lambda: self.command(stage, forks)).end()


@dataclass(frozen=True)
class Setting:
    """The setting that a job works with.

    Attributes:
        folder: its own, empty.
        shared: one of all jobs.
        bench: its lane's, built where the job needs it.
        clock: the job's time.
    """

    folder: Path
    shared: Path
    bench: Bench
    clock: Clock
    is_short: bool
    seed: int


def differences(ended: Ended, wanted: dict[str, str], found: dict[str, str], stage: str) -> list[str]:
    """How a folder is not what it should be."""
    if ended.code:
        return [f"{stage} does not go on ({ended.code}): {ended.last_line}"]
    litter = sorted(name for name in found if any(mark in name for mark in LITTER))
    if litter:
        return [f"{stage} leaves litter: {litter[0]}"]
    names = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
    missing = [name for name in names if name not in found]
    extra = [name for name in names if name not in wanted]
    how = "lacks" if missing else "has more: " if extra else "has other bits:"
    return [f"{stage} {how} {(missing or extra or names)[0]}"] if names else []


def content(folder: Path) -> dict[str, str]:
    """Every file's digest by name, without what says how long something took.

    Of a phase's checkpoints the newest: one that was saved when something went wrong stands in for an older one.
    """
    found = {}
    older = {step for phase in folder.rglob("checkpoints/phase*") for step in sorted(phase.glob("step-*"))[:-1]}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and "/tensorboard/" not in name and path.parent not in older:
            found[name] = hashlib.sha256(_timeless(path)).hexdigest()
        elif path.is_dir() and any(mark in path.name for mark in LITTER):
            found[name] = ""
    return found


def _timeless(path: Path) -> bytes:
    data = path.read_bytes()
    if path.name == "metrics.jsonl":
        lines = [json.loads(line) for line in data.splitlines()]
        return json.dumps([{k: v for k, v in line.items() if "wait" not in k} for line in lines]).encode()
    if path.name == "flags.json":
        flags: dict[str, list[dict[str, Any]]] = json.loads(data)
        return json.dumps([[f for f in those if "wait" not in f["name"]] for those in flags.values()]).encode()
    if path.name == "card.json":
        return json.dumps(json.loads(data) | {"seconds": 0}).encode()
    return data


def write_recordings(root: Path, count: int, length: int = 33) -> None:
    """Made-up play in MineRL's layout: noise with a moving square, random actions, a reward now and then."""
    space, chance = action_space("crafter"), np.random.default_rng(0)
    for number in range(count):
        frames = chance.integers(0, 64, (length, 64, 64, 3), dtype=np.uint8)
        for t in range(length):
            frames[t, 8:24, t : t + 16] += 128
        steps = length - 1
        terminals = np.zeros(steps, bool)
        terminals[-1] = True
        name = f"v3_expert_crafter-{number}_0-{steps}"
        actions = chance.integers(0, space.sizes[0], (steps, 1)).astype(np.uint8)
        rewards = (chance.random(steps) < 0.2).astype(np.float32)
        valid = np.ones(length, bool)
        trajectory = Trajectory(name, frames, actions, rewards, terminals, valid, {})
        metadata = {"seed": number, "policy": "expert", "achievements": []}
        write_recording(root / "Crafter-expert" / name, trajectory, space, metadata)
