"""Recordings in MineRL's and VPT's layouts, with tasks, from video files through all phases to an evaluation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("av")

from fastdreamer.config import load_config
from fastdreamer.encoding.pipeline import encode_recordings
from fastdreamer.evaluation.evaluate import evaluate
from fastdreamer.latents.store import LatentStore
from fastdreamer.run.directory import RunDirectory
from fastdreamer.training.phase_data import training_loader
from fastdreamer.training.train import train
from recordings.fixtures import obtain_arrays, write_minerl_recording
from recordings.vpt_fixtures import write_vpt_recording

FRAMES = 41
SMALL = ["device=cpu", "precision=fp32", "compile=off", "dynamics.dim=16", "dynamics.layers=2", "imagination.horizon=2",
         "phase1.steps=2", "phase2.steps=3", "phase3.steps=3", "imagination.critic_steps=0", "decoder.steps=1",
         "evaluation.crops=2", "sampling.clone_top=0.5"]  # fmt: skip


def write_minerl(root: Path, number: int) -> None:
    arrays = obtain_arrays(FRAMES - 1)
    arrays["observation$inventory$log"] = np.arange(FRAMES) // (8 + number)
    write_minerl_recording(root, arrays, env="MineRLObtainDiamond-v0", number=number)


def write_vpt(root: Path, number: int) -> None:
    def count(lines: list[Any]) -> None:
        for row, line in enumerate(lines):
            line["inventory"] = [{"type": "oak_log", "quantity": row // (8 + number)}]
            line["stats"] = {"minecraft.mine_block:minecraft.oak_log": 100 + row // (8 + number)}

    name = f"cheeky-cornflower-setter-02e496ce4abb-2022042{number}-092639"
    write_vpt_recording(root, FRAMES, name=name, change=count)


@pytest.mark.parametrize(
    ("env", "write", "tasks"),
    [
        ("minerl_obtain", write_minerl, ["reward", "log"]),
        ("vpt", write_vpt, ["oak_log", "first:mine_block.oak_log"]),
    ],
)
def test_tasks_from_recordings_to_an_agent(
    env: str, write: Callable[[Path, int], None], tasks: list[str], tmp_path: Path
) -> None:
    for number in range(3):
        write(tmp_path / "recordings", number)
    config = load_config("debug", [*SMALL, f"data.env={env}", f"tasks.names={tasks}"])
    encode_recordings(config, tmp_path / "recordings", tmp_path / "store")
    store = LatentStore.open(tmp_path / "store")
    with training_loader(config, 2, store, torch.device("cpu")) as loader:
        batches = [loader.draw() for _ in range(6)]
    for task in (0, 1):
        drawn = [batch.take(torch.nonzero(batch.task == task).flatten()) for batch in batches]
        assert all(batch.reward_valid[:, 1:].any() for batch in drawn if len(batch.task))
        assert task == 0 or sum(float(batch.rewards.sum()) for batch in drawn) > 0
    for phase in (1, 2, 3):
        assert np.isfinite(train(config, tmp_path, phase)["figures"]["loss"])
    assert RunDirectory(tmp_path).load(3, config).tensors["frozen-agent"]["tasks.weight"].shape == (2, 16)
    result = evaluate(config, tmp_path)
    assert result["policies"] == {} and any("has no environment" in note for note in result["notes"])
