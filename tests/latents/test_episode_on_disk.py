"""A store that is larger than memory: the same episodes and batches, with nothing of its files held."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from latents.episodes import equal

from fastdreamer.config import SamplingConfig
from fastdreamer.errors import UserError
from fastdreamer.latents.crop_sampler import CropSampler
from fastdreamer.latents.episode import ARRAYS, Episode, write_episode
from fastdreamer.latents.episode_on_disk import EpisodeOnDisk
from fastdreamer.latents.manifest import FOLDER, write_manifest
from fastdreamer.latents.relabel import relabelled
from fastdreamer.latents.store import LatentStore, read_manifest
from fastdreamer.latents.synthetic import write_synthetic_store
from fastdreamer.recordings.actions import action_space
from fastdreamer.shapes import LatentClock
from fastdreamer.training.phase_data import before_end

CLOCK, COUNT = LatentClock(4, 9), 6


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A store of some episodes, all but one with counters."""
    path = tmp_path / "store"
    write_synthetic_store(path, CLOCK, action_space("crafter"), COUNT, steps=7, seed=0)
    manifest = read_manifest(path)
    for number, episode in enumerate(LatentStore.open(path).episodes[1:]):
        counters = {"wood": torch.arange(episode.length) // (2 + number), "stone": torch.arange(episode.length)}
        entry = write_episode(path, replace(episode, counters=counters), "test")
        manifest["episodes"][episode.name] = entry | {"task": number}
    write_manifest(path, manifest)
    return path


def files(store: Path) -> list[Path]:
    return [store / FOLDER / entry["file"] for entry in read_manifest(store)["episodes"].values()]


def both(path: Path) -> tuple[LatentStore, LatentStore]:
    """The store in RAM and on disk."""
    return LatentStore.open(path), LatentStore.open(path, memory_limit_gb=0)


def same(one: Episode, other: Episode) -> bool:
    """Whether two episodes hold the same, asked for in every way."""
    flags = ("name", "split", "labelled", "task", "rewarded", "length", "counted")
    return (
        all(getattr(one, name) == getattr(other, name) for name in flags)
        and all(torch.equal(getattr(one, name), getattr(other, name)) for name in ARRAYS)
        and list(one.counters) == list(other.counters)
        and all(torch.equal(values, other.counters[name]) for name, values in one.counters.items())
        and one.to_bytes() == other.to_bytes()
    )


CHANGES: dict[str, Callable[[Episode], Episode]] = {
    "as it is": lambda e: e,
    "changed": lambda e: e.changed(task=7, rewarded=False, rewards=torch.ones(e.length - 1)),
    "cut": lambda e: e.until(10, 4),
    "changed and cut": lambda e: e.changed(rewards=torch.arange(e.length - 1.0)).until(10, 4).until(8, 3),
    "without its end": lambda e: before_end(e, CLOCK),
}


@pytest.mark.parametrize("how", CHANGES)
def test_it_holds_what_the_episode_in_memory_holds(path: Path, how: str) -> None:
    in_ram, on_disk = both(path)
    for one, other in zip(in_ram.episodes, on_disk.episodes, strict=True):
        changed = CHANGES[how](other)
        assert isinstance(changed, EpisodeOnDisk) and same(CHANGES[how](one), changed)
        assert same(one, other), "it is another one that changed"
        assert torch.equal(other.some_latents(2, 99), one.latents[2:]) and other.steps == len(one.latents)
    with pytest.raises(AttributeError, match="no colour"):
        getattr(other, "colour")  # noqa: B009


@pytest.mark.parametrize("tasks", [(), ("wood", "first:stone")], ids=str)
def test_batches_statistics_and_tasks_are_the_same(path: Path, tasks: tuple[str, ...]) -> None:
    every = SamplingConfig(short_window=2, single_step=0.2, reward_weighted=0.5, clone_top=0.5)

    def drawn(store: LatentStore) -> tuple[list[Any], Any]:
        views = relabelled(store, [before_end(e, CLOCK) for e in store.episodes[1:]], tasks)
        made = CropSampler(views[0], CLOCK, 4, 5, 0, 0.9, every, tasks=views if len(views) > 1 else ())
        return [made.batch(number) for number in range(12)], store.statistics()

    (in_ram, means), (on_disk, others) = map(drawn, both(path))
    assert all(equal(one, other) for one, other in zip(in_ram, on_disk, strict=True))
    assert all(torch.equal(one, other) for one, other in zip(means, others, strict=True))


def held_in(folder: Path) -> list[str]:
    """Files below a folder that this process has open."""
    found = []
    for number in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # the one that lists, and other threads'
            found.append(os.readlink(f"/proc/self/fd/{number}"))
    return [file for file in found if file.startswith(f"{folder}/")]


def test_no_array_no_map_and_no_file_is_held(path: Path) -> None:
    store = LatentStore.open(path, memory_limit_gb=0)
    sampler = CropSampler(store.split("train"), CLOCK, 4, 5, 0)
    sampler.batch(0)
    held = [episode.latents for episode in store.episodes for _ in range(50)]
    assert len(held) == 50 * COUNT and held_in(path) == []
    assert str(path) not in Path("/proc/self/maps").read_text()
    assert not any(isinstance(value, torch.Tensor) for e in store.episodes for value in e.__dict__.values())


def test_a_crop_opens_its_file_and_reads_its_steps_and_metadata_are_not_read(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = LatentStore.open(path, memory_limit_gb=0)
    sampler = CropSampler(store.episodes, CLOCK, 4, 5, 0)
    opened: list[str] = []
    plain = os.open
    monkeypatch.setattr(os, "open", lambda file, *more: opened.append(str(file)) or plain(file, *more))
    assert [(e.name, e.split, e.task, e.labelled, e.length, e.counted) for e in store.episodes] and not opened
    read: list[int] = []
    preadv = os.preadv
    monkeypatch.setattr(os, "preadv", lambda *a: read.append(preadv(*a)) or read[-1])
    sampler.batch(0)
    assert len(opened) == 5 and read == [4 * 512] * 5


@pytest.mark.parametrize("limit", [4.0, 0.0])
def test_opening_reads_each_file_once(path: Path, limit: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """And without a look at the folder."""
    opened: list[str] = []
    plain = open
    monkeypatch.setattr("builtins.open", lambda file, *a, **k: opened.append(str(file)) or plain(file, *a, **k))
    for listing in ("scandir", "listdir"):
        monkeypatch.setattr(os, listing, lambda path: pytest.fail("lists"))
    LatentStore.open(path, memory_limit_gb=limit)
    assert [file for file in opened if FOLDER in file] == [str(f) for f in files(path)]


@pytest.mark.parametrize("what", ["gone", "another", "other bytes"])
def test_a_file_that_changed_under_a_run_is_one_line(path: Path, what: str) -> None:
    store = LatentStore.open(path, memory_limit_gb=0)
    episode = store.episodes[2]
    assert isinstance(episode, EpisodeOnDisk)
    file = path / FOLDER / f"{episode.name}.safetensors"
    data, before = file.read_bytes(), file.stat().st_mtime_ns
    file.unlink()
    if what != "gone":
        file.write_bytes(data if what == "another" else data[:-1] + b"\7")
        os.utime(file, ns=(0, before + 1))
    for ask in (lambda: episode.latents, lambda: episode.actions, lambda: episode.counters):
        with pytest.raises(UserError, match=rf"{episode.name}.*cannot be read any more.*fastdreamer encode") as caught:
            ask()
        assert "\n" not in str(caught.value)
