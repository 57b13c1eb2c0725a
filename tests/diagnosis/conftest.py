"""A small run whose three phases are trained on made-up play, and ways to spoil a copy of it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fastdreamer.config import Config
from fastdreamer.data.actions import action_space
from fastdreamer.data.synthetic import write_synthetic_store
from fastdreamer.device import Backend
from fastdreamer.diagnosis.run import diagnose
from fastdreamer.files import sha256_file
from fastdreamer.settings import dump_config, load_config
from fastdreamer.training.train import train

BACKEND = Backend(torch.device("cpu"), "fp32")
CONFIG = (
    "device=cpu", "precision=fp32", "compile=off", "seed=0", "data.recordings=/nonexistent",
    "tokenizer={frames_per_latent: 1, window: 1, image_size: 64, pool: 2, encoder_channels: [8, 8, 8]}",
    "dynamics={dim: 64, layers: 2, heads: 2, kv_heads: 1, time_every: 2, registers: 1, window: 8, context: 8}",
    "heads={hidden: 64, layers: 1, bins: 41, reward_range: 3.0, value_range: 4.0, policy_dropout: 0.0}",
    "imagination={horizon: 5, start_context: 2, critic_steps: 2}",
    "phase1={steps: 240, batch_size: 16, optimizer: muon, learning_rate: 3.0e-3, log_every: 10, checkpoint_every: 240}",
    "phase2={steps: 60, batch_size: 32, learning_rate: 1.0e-3, log_every: 5, checkpoint_every: 60}",
    "phase3={steps: 6, batch_size: 16, log_every: 1, checkpoint_every: 6}",
    "evaluation={context: 2, crops: 8, samples: 2}",
)  # fmt: skip
Found = dict[tuple[str, str], dict[str, Any]]


@pytest.fixture(scope="session")
def config() -> Config:
    return load_config("debug", list(CONFIG))


@pytest.fixture(scope="session")
def healthy(tmp_path_factory: pytest.TempPathFactory, config: Config) -> Path:
    """The trained run; never changed."""
    run = tmp_path_factory.mktemp("diagnosis") / "healthy"
    run.mkdir()
    dump_config(config, run / "config.yaml")
    write_synthetic_store(run / "store", config.tokenizer.clock, action_space("crafter"), 12, 60, seed=0)
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
