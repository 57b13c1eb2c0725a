"""A small run whose three phases are trained on made-up play, and ways to spoil a copy of it."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fastdreamer.config import Config, load_config
from fastdreamer.device import Backend
from fastdreamer.latents.episode import write_episode
from fastdreamer.latents.manifest import FORMAT, described, write_manifest
from fastdreamer.latents.store import SYNTHETIC, Episode
from fastdreamer.recordings.actions import action_space
from fastdreamer.settings import dump_config
from fastdreamer.system.files import sha256_file
from fastdreamer.tools.diagnosis.diagnose import diagnose
from fastdreamer.training.train import train

BACKEND = Backend(torch.device("cpu"), "fp32")
CONFIG = (
    "device=cpu", "precision=fp32", "compile=off", "seed=0", "data.recordings=/nonexistent",
    "tokenizer={frames_per_latent: 1, window: 1, image_size: 64, pool: 2, encoder_channels: [8, 8, 8]}",
    "dynamics={dim: 64, layers: 2, heads: 2, kv_heads: 1, time_every: 2, registers: 1, window: 6, context: 6}",
    "heads={hidden: 64, layers: 1, bins: 41, reward_range: 3.0, value_range: 4.0, policy_dropout: 0.0}",
    "imagination={horizon: 4, start_context: 2, critic_steps: 2, gamma: 0.9}",
    "phase1={steps: 250, batch_size: 16, optimizer: muon, learning_rate: 3.0e-3, log_every: 5, checkpoint_every: 250}",
    "phase2={steps: 300, batch_size: 32, learning_rate: 1.0e-3, log_every: 10, checkpoint_every: 300}",
    "phase3={steps: 6, batch_size: 16, log_every: 1, checkpoint_every: 6}",
    "evaluation={context: 2, crops: 8, samples: 2}",
)  # fmt: skip
Found = dict[tuple[str, str], dict[str, Any]]


@pytest.fixture(scope="session")
def config() -> Config:
    return load_config("debug", list(CONFIG))


def write_ring_store(path: Path, episodes: int, steps: int) -> None:
    """Play on a ring of 8 places, each with a picture of its own.

    An action moves on, back or not at all; arriving at place 4 is rewarded. The player mostly goes on, by one action in
    one half of the ring and by another in the other.
    """
    generator = torch.Generator().manual_seed(0)
    space, places = action_space("crafter"), torch.randn(8, 16, 16, generator=generator)
    entries = {}
    for number in range(episodes):
        actions = torch.randint(17, (steps - 1,), generator=generator)
        habit = torch.rand(steps - 1, generator=generator) < 0.7
        visited, rewards = [int(torch.randint(8, (), generator=generator))], []
        for t in range(steps - 1):
            if habit[t]:
                actions[t] = 1 if visited[-1] < 4 else 2
            move = 1 if actions[t] < 6 else -1 if actions[t] < 12 else 0
            visited.append((visited[-1] + move) % 8)
            rewards.append(float(visited[-1] == 4 and move != 0))
        noise = 0.05 * torch.randn(steps, 16, 16, generator=generator)
        episode = Episode(
            name=f"ring-{number:02d}",
            split="held_out" if number % 6 == 5 else "train",
            latents=(places[visited] + noise).half(),
            actions=actions[:, None].to(torch.uint8),
            rewards=torch.tensor(rewards),
            terminals=torch.zeros(steps - 1, dtype=torch.bool),
            valid=torch.ones(steps, dtype=torch.bool),
        )
        entries[episode.name] = write_episode(path, episode, source="test")
    key = {"tokenizer": SYNTHETIC, "frames_per_latent": 1, "window": 1, "actions": space.fingerprint}
    write_manifest(path, {"format": FORMAT, "key": key, **described(space), "episodes": entries, "skipped": {}})


@pytest.fixture(autouse=True, scope="package")
def _small_and_shared() -> Iterator[None]:
    """Few crops; and no wait for a batch counts, for on a machine that does other work one may last for long."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fastdreamer.tools.diagnosis.loaded_phase.BRIEF_S", math.inf)
        patch.setattr("fastdreamer.tools.diagnosis.dynamics_checks.CROPS", 12)
        patch.setattr("fastdreamer.tools.diagnosis.loaded_phase.STEPS", 1)
        yield


@pytest.fixture(scope="session")
def healthy(tmp_path_factory: pytest.TempPathFactory, config: Config) -> Path:
    """The trained run; never changed."""
    run = tmp_path_factory.mktemp("diagnosis") / "healthy"
    run.mkdir()
    dump_config(config, run / "config.yaml")
    write_ring_store(run / "store", episodes=12, steps=60)
    for phase in (1, 2, 3):
        train(config, run, phase)
    return run


@pytest.fixture
def run(healthy: Path, tmp_path: Path) -> Path:
    """A copy to be spoilt."""
    return shutil.copytree(healthy, tmp_path / "run")


def found(config: Config, run: Path, phase: int) -> Found:
    """The checks of a phase, by group and name."""
    result = diagnose(config, run, (phase,), BACKEND)
    return {(c["group"], c["name"]): c for c in result["phases"][f"phase{phase}"]["checks"]}


def raised(checks: Found) -> set[tuple[str, str]]:
    """Those that somebody should look at."""
    return {key for key, check in checks.items() if check["verdict"] in ("amber", "red")}


@pytest.fixture(scope="session")
def usual(config: Config, healthy: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Found]:
    """What is found of a phase of the unspoilt run."""
    copy = shutil.copytree(healthy, tmp_path_factory.mktemp("usual") / "run")
    known: dict[int, Found] = {}

    def of(phase: int) -> Found:
        if phase not in known:
            known[phase] = found(config, copy, phase)
        return known[phase]

    return of


def edit_checkpoint(run: Path, phase: int, group: str, change: Callable[[dict[str, Tensor]], None]) -> None:
    """Changes the tensors of a group of a phase's checkpoint, which stays whole."""
    from safetensors.torch import load_file, save_file

    (folder,) = (run / "checkpoints" / f"phase{phase}").iterdir()
    file = folder / f"{group}.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest[file.name] = sha256_file(file)
    (folder / "manifest.json").write_text(json.dumps(manifest))
