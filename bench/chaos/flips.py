"""Single flipped bytes in all that is hashed or checked: refused, or harmless; never taken for something else."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.chaos.children import Child, each
from bench.chaos.rows import Clock, Row
from bench.chaos.stages import SMALL

HARMLESS = "harmless"  # what is read is what was written


@dataclass(frozen=True)
class Target:
    """Files that are read together: `read` gives what they say, in a form that can be compared; `files` are changed."""

    name: str
    folder: Path
    read: Callable[[Path], Any]
    files: str = "*"

    @property
    def paths(self) -> list[Path]:
        return sorted(path for path in self.folder.rglob(self.files) if path.is_file())


def flips(target: Target, count: int, clock: Clock, seed: int) -> Row:
    """`count` flips, each alone, spread over the files."""
    chance, began = random.Random(f"{seed}:{target.name}"), time.monotonic()
    files = target.paths
    plan = []
    for number in range(count):
        file = files[number % len(files)]
        plan.append((file, chance.randrange(file.stat().st_size), chance.randrange(1, 256)))
    said = each(plan, Flip(target), clock.ends_at)
    failures = [text for text in said if text not in ("", HARMLESS)]
    refused, harmless = said.count(""), said.count(HARMLESS)
    note = f"{len(files)} files; {refused:,} refused, {harmless:,} harmless"
    return Row("flipped byte", target.name, len(said), failures, note, time.monotonic() - began)


class Flip:
    """Flips a byte, reads, and puts it back."""

    def __init__(self, target: Target) -> None:
        from fastdreamer_engines.spec import EngineError

        from fastdreamer.errors import UserError

        self.target = target
        self.refusals = (UserError, EngineError)
        self.wanted: Any = None

    def __call__(self, entry: tuple[Path, int, int]) -> str:
        if self.wanted is None:
            self.wanted = self.target.read(self.target.folder)
        file, place, change = entry
        before = file.read_bytes()
        data = bytearray(before)
        data[place] ^= change
        file.write_bytes(data)
        try:
            found = self.target.read(self.target.folder)
        except self.refusals:
            return ""
        finally:
            file.write_bytes(before)
        return HARMLESS if found == self.wanted else f"another content of {_kind(file)} is accepted"


def _kind(file: Path) -> str:
    return file.name if not file.name.endswith(".safetensors") else f"{file.parent.parent.name}'s tensors"


def targets(folder: Path) -> list[Target]:
    """A checkpoint, a store, an engine and a configuration, made small; in a child, for torch runs."""
    made = Child(lambda: _make(folder)).end()
    if made.code:
        raise RuntimeError(made.text)
    return [
        Target("checkpoint", folder / "run" / "checkpoints" / "phase1", _read_checkpoint),
        Target("store", folder / "run" / "store", _read_store),
        Target("store's manifest", folder / "manifest", _read_manifest, "manifest.json"),
        Target("engine", folder / "engine", _read_engine),
        Target("configuration", folder / "config", _read_config),
    ]


def _make(folder: Path) -> None:
    from fastdreamer_engines.manifest import MANIFEST, manifest_bytes

    from fastdreamer.data.actions import action_space
    from fastdreamer.data.synthetic import write_synthetic_store
    from fastdreamer.settings import dump_config, load_config
    from fastdreamer.training.train import train

    config = load_config("debug", [*SMALL, "data.recordings=/nonexistent", "phase1.steps=2"])
    store = folder / "run" / "store"
    write_synthetic_store(store, config.tokenizer.clock, action_space("crafter"), episodes=3, steps=12, seed=0)
    train(config, folder / "run", 1, draws=False)
    for name in ("config", "engine", "manifest"):
        (folder / name).mkdir()
    dump_config(config, folder / "config" / "config.yaml")
    write_synthetic_store(folder / "manifest", config.tokenizer.clock, action_space("crafter"), 2, 6, 0)
    (folder / "engine").chmod(0o700)
    (folder / "engine" / "1x33.plan").write_bytes(bytes(range(256)) * 8)
    body = {"key": {"target": "sm86"}, "status": "verified", "measured": {"ms_per_clip": 1.5}}
    (folder / "engine" / MANIFEST).write_bytes(manifest_bytes(folder / "engine", body))


def _read_checkpoint(folder: Path) -> Any:
    from fastdreamer.training.checkpoint import load_checkpoint

    found = load_checkpoint(folder)
    tensors = {
        (group, name): value.numpy().tobytes() for group, own in found.tensors.items() for name, value in own.items()
    }
    return tensors, found.state, found.path.name


def _read_store(folder: Path) -> Any:
    from fastdreamer.data.latents import ARRAYS, LatentStore

    store = LatentStore.open(folder)
    return store.manifest, [
        (e.name, e.split, e.task, *(getattr(e, name).numpy().tobytes() for name in ARRAYS)) for e in store.episodes
    ]


def _read_manifest(folder: Path) -> Any:
    from fastdreamer.data.latents import read_manifest

    return read_manifest(folder)


def _read_engine(folder: Path) -> Any:
    from fastdreamer_engines.manifest import check_files, read_manifest

    manifest = read_manifest(folder)
    check_files(folder, manifest)
    return manifest


def _read_config(folder: Path) -> Any:
    from fastdreamer.training.runs import RunDirectory

    return RunDirectory(folder).config()
