"""A run directory with a synthetic store, and the debug configuration in fp32."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fastdreamer.config import Config, load_config
from fastdreamer.device import Backend
from fastdreamer.latents import loader
from fastdreamer.latents.episode import write_episode
from fastdreamer.latents.manifest import write_manifest
from fastdreamer.latents.store import LatentStore, read_manifest
from fastdreamer.latents.synthetic import write_synthetic_store
from fastdreamer.recordings.actions import action_space
from fastdreamer.training import keeping
from fastdreamer.training.phase import Phase
from fastdreamer.training.step import Update

BACKEND = Backend(torch.device("cpu"), "fp32")


def one_loss(phase: Phase[Any], step: int) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of a phase's next batch, and its figures."""
    return phase.loss(phase.draw(), step)


SMALL = [
    "device=cpu",
    "precision=fp32",
    "data.recordings=/nonexistent",
    "phase1.steps=6",
    "phase1.checkpoint_every=3",
    "phase2.steps=6",
    "phase2.checkpoint_every=3",
    "phase3.steps=4",
    "phase3.checkpoint_every=2",
    "dynamics.dim=16",
    "imagination.horizon=2",
]


class Clock:
    """A made-up clock, in the place of the one by which waiting for batches is counted.

    Attributes:
        now: seconds.
        step_s: what a step takes, without its batch.
    """

    def __init__(self) -> None:
        self.now, self.step_s = 0.0, 0.2

    def perf_counter(self) -> float:
        self.now += 1e-9  # two readings are never the same
        return self.now


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """No step waits for a batch unless its test says so: on a busy machine some would, and be warned of."""
    made_up, inner = Clock(), Update.__call__

    def step(update: Update, index: int) -> Any:
        made_up.now += made_up.step_s
        return inner(update, index)

    monkeypatch.setattr(Update, "__call__", step)
    for module in (loader, keeping):
        monkeypatch.setattr(module, "time", made_up)
    return made_up


@pytest.fixture(scope="session")
def small() -> Callable[..., Config]:
    """The debug preset, smaller still, with overrides."""
    return lambda *overrides: load_config("debug", [*SMALL, *overrides])


@pytest.fixture
def new_run(tmp_path: Path) -> Callable[[Config, str], Path]:
    """Makes a run directory with a synthetic store."""

    def make(config: Config, name: str = "run") -> Path:
        run_dir = tmp_path / name
        space = action_space(config.data.env)
        write_synthetic_store(run_dir / "store", config.tokenizer.clock, space, episodes=3, steps=12, seed=0)
        return run_dir

    return make


def relabel(store: Path, changes: Callable[[int], Mapping[str, Any]]) -> None:
    """Writes a store's episodes anew, number i with `changes(i)`."""
    manifest = read_manifest(store)
    for number, episode in enumerate(LatentStore.open(store).episodes):
        manifest["episodes"][episode.name] = write_episode(store, replace(episode, **changes(number)), "test")
    write_manifest(store, manifest)


@pytest.fixture
def changed_run(new_run: Callable[..., Path]) -> Callable[..., Path]:
    """As `new_run`, with episode i of the store changed by `changes(i)`."""

    def make(config: Config, changes: Callable[[int], Mapping[str, Any]], name: str = "run") -> Path:
        run_dir = new_run(config, name)
        relabel(run_dir / "store", changes)
        return run_dir

    return make


@pytest.fixture
def mixed_run(changed_run: Callable[..., Path]) -> Callable[..., Path]:
    """As `new_run`, with one of the two training episodes unlabelled and without rewards."""

    def make(config: Config, name: str = "run") -> Path:
        def unlabel(number: int) -> Mapping[str, Any]:
            return {"split": "held_out"} if number == 2 else {"split": "train"} | _plain_video(number == 1)

        return changed_run(config, unlabel, name)

    return make


def _plain_video(is_plain: bool) -> dict[str, bool]:
    return {"labelled": not is_plain, "rewarded": not is_plain}
