"""A run from what people played, opened to be played in."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from fastdreamer.config import load_config
from fastdreamer.encoding.pipeline import encode_recordings
from fastdreamer.errors import UserError
from fastdreamer.latents.store import LatentStore
from fastdreamer.play.loaded import Loaded, held_out, load
from fastdreamer.play.session import Session
from fastdreamer.recordings.inspect import inspect_recordings
from fastdreamer.run.checkpoint import Checkpoint
from fastdreamer.run.directory import RunDirectory
from fastdreamer.settings import dump_config
from fastdreamer.training.train import train

pytest.importorskip("crafter")
SMALL = ["device=cpu", "precision=fp32", "phase1.steps=2", "phase2.steps=2", "phase3.steps=2", "decoder.steps=2",
         "dynamics.dim=16", "dynamics.layers=2"]  # fmt: skip


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory, single: Loaded) -> Path:
    """Three episodes played through a session, recorded, encoded and trained on."""
    folder = tmp_path_factory.mktemp("played")
    session = Session(single, folder / "recordings")
    for seed in (1, 2, 3):
        session.start(seed=seed)
        for step in range(40):
            session.step([(step * seed) % 6])
    session.close()
    config = load_config("debug", SMALL)
    dump_config(config, folder / "config.yaml")
    encode_recordings(config, folder / "recordings", folder / "store")
    train(config, folder, 1)
    return folder


def test_what_people_play_is_inspected_encoded_and_trained_on(run_dir: Path) -> None:
    found = inspect_recordings(run_dir / "recordings")
    assert found["episodes"] == 3 and found["damaged"] == [] and found["frames"] == 123, found
    store = LatentStore.open(run_dir / "store")
    assert sorted(episode.name for episode in store.episodes) == [f"v3_human_crafter-{s}_0-40" for s in (1, 2, 3)]
    assert all(len(episode.latents) == 6 and episode.labelled for episode in store.episodes)


def test_a_run_without_agents_is_played_all_the_same(run_dir: Path) -> None:
    loaded = load(run_dir)
    assert loaded.agents == {} and loaded.decoder is not None and loaded.title == run_dir.name
    assert {1, 2, 3, 1_000_000} <= loaded.taken
    held_out = {e.name for e in LatentStore.open(run_dir / "store").split("held_out")}
    assert {recording.name for recording in loaded.recordings} == held_out != set()
    session = Session(loaded)
    assert session.describe()["players"] == ["you", "random", "recorded"]
    view = session.step([1])
    assert view.said["agent"] == {} and view.said["dreamed_agent"] is None and view.said["drift"]["dream"] > 0


def test_without_a_store_it_is_begun_from_what_would_be_held_out_or_from_all(run_dir: Path, tmp_path: Path) -> None:
    from fastdreamer.latents.splits import natural_split

    (tmp_path / "recordings").symlink_to(run_dir / "recordings")
    everything = load_config("debug", ["data.held_out=0.000001"])
    assert len(held_out(everything, RunDirectory(tmp_path))) == 3
    half = load_config("debug", ["data.held_out=0.5"])
    found = {recording.name for recording in held_out(half, RunDirectory(tmp_path))}
    assert found == {f"v3_human_crafter-{s}_0-40" for s in (1, 2, 3)} - {
        name for s in (1, 2, 3) if natural_split(name := f"v3_human_crafter-{s}_0-40", 0.5) == "train"
    }
    assert held_out(half, RunDirectory(tmp_path / "none")) == ()


def test_an_agent_of_another_world_is_left_out(
    run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, single: Loaded
) -> None:
    from fastdreamer.play import loaded as module

    run = tmp_path / "run"
    shutil.copytree(run_dir, run)
    config = RunDirectory(run).config()
    for phase in (2, 3):
        train(config, run, phase)
    whole = load(run)
    assert sorted(whole.agents) == [2, 3] and whole.notes == ()
    assert Session(whole).choose(who="phase2").said["who"] == "phase2"
    real = module.world_model_from

    def other(checkpoint: Checkpoint, *rest: Any) -> Any:
        world = real(checkpoint, *rest)
        if checkpoint.phase == 2:
            world.mean.add_(1.0)
        return world

    monkeypatch.setattr(module, "world_model_from", other)
    found = load(run)
    assert sorted(found.agents) == [3] and "phase 2 was trained on another world model" in found.notes[0]


def test_what_cannot_be_played_is_one_line(run_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"(?s)^[^\n]*config[^\n]*$"):
        load(tmp_path / "nothing")
    config = RunDirectory(run_dir).config()
    dump_config(config, tmp_path / "config.yaml")
    with pytest.raises(UserError, match="nothing is trained .* train --run-dir .* --phase 1"):
        load(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "phase1").symlink_to(run_dir / "checkpoints" / "phase1")
    with pytest.raises(UserError, match="no pixel decoder .* trained by: .*train"):
        load(tmp_path)
    if not torch.cuda.is_available():
        (tmp_path / "config.yaml").unlink()
        dump_config(load_config("debug", [*SMALL, "device=cuda"]), tmp_path / "config.yaml")
        with pytest.raises(UserError, match="device is cuda"):
            load(tmp_path)
