"""Opening the latent store, cutting a batch of crops from it, and saving a checkpoint."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import fields
from pathlib import Path
from unittest import mock

import torch
from torch import Tensor

from bench.gate.rows.base import GateRow, Place, RowWork, Wrong, close
from bench.gate.rows.recordings import counted_calls
from bench.phases import models
from fastdreamer.latents.batch import Batch, align, crop, stack
from fastdreamer.latents.crop_sampler import CropSampler
from fastdreamer.latents.store import LatentStore
from fastdreamer.latents.synthetic import write_synthetic_store
from fastdreamer.recordings.actions import action_space
from fastdreamer.run.checkpoint import load_checkpoint, save_checkpoint

EPISODES, STEPS, LENGTH, CROPS = 6, 120, 16, 32


def _store(place: Place) -> Path:
    config = place.config()
    write_synthetic_store(
        place.folder / "store", config.tokenizer.clock, action_space("crafter"), EPISODES, STEPS, seed=0
    )
    return place.folder / "store"


def opening(place: Place) -> RowWork:
    """`LatentStore.open`: every file read, hashed and parsed, and the manifest."""
    from safetensors.torch import load

    path = _store(place)

    def plain() -> list[Tensor]:
        entries = json.loads((path / "manifest.json").read_text())["episodes"]
        found = []
        for entry in entries.values():
            data = (path / "episodes" / entry["file"]).read_bytes()
            if hashlib.sha256(data).hexdigest() != entry["sha256"]:
                raise Wrong(f"{entry['file']} is damaged")
            found.append(load(data)["latents"])
        return found

    def check() -> None:
        for episode, latents in zip(LatentStore.open(path).episodes, plain(), strict=True):
            close("the latents", episode.latents, latents, 0)

    def counts() -> dict[str, int]:
        store = LatentStore.open(path)
        return {"episodes": len(store.episodes), "bytes": store.size_bytes}

    return RowWork.of_calls(place, check, lambda: LatentStore.open(path), plain, EPISODES, "episodes", counts)


def reading(place: Place) -> RowWork:
    """`CropSampler.batch` of 32 crops of 16 steps from RAM, against cutting and stacking them one by one."""
    config = place.config()
    episodes = LatentStore.open(_store(place)).episodes
    sampler = CropSampler(episodes, config.tokenizer.clock, LENGTH, CROPS, seed=0)
    aligned = [align(episode, config.tokenizer.clock) for episode in episodes]
    taken: list[tuple[Tensor, Tensor]] = []
    cut = sampler.table.cut

    def noted(episodes: Tensor, starts: Tensor, length: int, tasks: Tensor | None = None) -> Batch:
        taken.append((episodes, starts))
        return cut(episodes, starts, length, tasks)

    with mock.patch.object(sampler.table, "cut", noted):
        sampler.batch(0)
    numbers, starts = (each.tolist() for each in taken[0])

    def plain() -> Batch:
        return stack([crop(aligned[e], start, LENGTH) for e, start in zip(numbers, starts, strict=True)])

    def check() -> None:
        one, other = sampler.batch(0), plain()
        for field in fields(Batch):
            close(f"the batch's {field.name}", getattr(one, field.name), getattr(other, field.name), 0)

    return RowWork.of_calls(place, check, lambda: sampler.batch(0), plain, CROPS, "crops")


def saving(place: Place) -> RowWork:
    """`save_checkpoint` of a model, its average and its optimiser's moments: files that are synced and hashed."""
    from safetensors.torch import save_file

    config = place.config("dynamics.dim=128")
    world, _ = models(config, torch.device("cpu"))
    state = {name: value.detach() for name, value in world.state_dict().items()}
    moments = {f"{key}.{name}": value.clone() for key in ("exp_avg", "exp_avg_sq") for name, value in state.items()}
    groups = {"model": state, "ema": state, "optimizer": moments}
    folder, spare = place.folder / "checkpoints", place.folder / "plain"
    spare.mkdir()
    number = 0

    def ours() -> Path:
        nonlocal number
        number += 1
        return save_checkpoint(folder, 1, number, groups, config, "latents")

    def plain() -> None:
        for name, tensors in groups.items():
            path = spare / f"{name}.safetensors"
            save_file({key: value.clone() for key, value in tensors.items()}, path)
            hashlib.sha256(path.read_bytes())
            with path.open("rb") as file:
                os.fsync(file.fileno())

    def check() -> None:
        saved = load_checkpoint(ours())
        if saved.tensors.keys() != groups.keys():
            raise Wrong(f"the checkpoint holds {sorted(saved.tensors)}, given were {sorted(groups)}")
        for name, tensors in groups.items():
            for key, value in tensors.items():
                close(f"{name}.{key}", saved.tensors[name][key], value, 0)

    def counts() -> dict[str, int]:
        with counted_calls("os.fsync") as synced:
            path = ours()
        files = [file for file in path.iterdir() if file.suffix == ".safetensors"]
        return {
            "files": len(list(path.iterdir())),
            "tensor_bytes": sum(v.nbytes for tensors in groups.values() for v in tensors.values()),
            "file_bytes": sum(file.stat().st_size for file in files),
            "fsyncs": synced[0],
        }

    return RowWork.of_calls(place, check, ours, plain, 1, "checkpoints", counts)


ROWS = (
    GateRow("store open", opening, devices=("cpu",)),
    GateRow("store read", reading, devices=("cpu",), is_steady=False),
    GateRow("checkpoint save", saving, is_short=False),
)
