"""A store from before counters were kept gets them, and nothing is encoded for it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from recordings.fixtures import obtain_arrays, write_minerl_recording
from recordings.vpt_fixtures import vpt_line, write_vpt_recording

from fastdreamer.config import Config, DataConfig, TokenizerConfig
from fastdreamer.encoding import recount
from fastdreamer.encoding.pipeline import encode_recordings
from fastdreamer.errors import UserError
from fastdreamer.latents.episode import write_episode
from fastdreamer.latents.manifest import write_manifest
from fastdreamer.latents.store import LatentStore, read_manifest
from fastdreamer.training.phase_data import aligned_before

MICRO = TokenizerConfig(
    weights="random", encoder_channels=(8, 8, 8), decoder_channels=(8, 8, 8), frames_per_latent=4, window=9
)
CONFIG = Config(device="cpu", tokenizer=MICRO, data=DataConfig(env="minerl_obtain"))


@pytest.fixture
def old(tmp_path: Path) -> tuple[Path, Path]:
    """Recordings, and a store of them as it was written before."""
    recordings, store = tmp_path / "recordings", tmp_path / "store"
    for number in range(2):
        arrays = obtain_arrays(20) | {"observation$inventory$log": np.arange(21) // 7 + number}
        write_minerl_recording(recordings, arrays, extra=2, number=number)
    encode_recordings(CONFIG, recordings, store)
    manifest = read_manifest(store)
    for episode in LatentStore.open(store).episodes:
        before = type(episode)(**{**vars(episode), "counters": {}})
        entry = manifest["episodes"][episode.name]
        entry["sha256"] = write_episode(store, before, entry["source_sha256"])["sha256"]
        del entry["counters"]
    write_manifest(store, manifest)
    return recordings, store


def test_counters_come_into_an_old_store_without_encoding(old: tuple[Path, Path]) -> None:
    recordings, store = old
    before, manifest = LatentStore.open(store), read_manifest(store)
    assert [episode.counters for episode in before.episodes] == [{}, {}]
    result = encode_recordings(CONFIG, recordings, store)
    assert result["kept"] == 2 and result["encoded_frames"] == 0
    after = LatentStore.open(store)
    for number, (then, now) in enumerate(zip(before.episodes, after.episodes, strict=True)):
        assert now.counters["log"].tolist() == (np.arange(21) // 7 + number).tolist()
        assert torch.equal(then.latents, now.latents) and (then.split, then.task) == (now.split, now.task)
        entry = after.manifest["episodes"][now.name]
        assert {**entry, "sha256": ""} == {**manifest["episodes"][now.name], "sha256": "", "counters": ["log"]}
    stamps = [path.stat().st_mtime_ns for path in sorted(store.rglob("*.safetensors"))]
    assert encode_recordings(CONFIG, recordings, store)["kept"] == 2
    assert [path.stat().st_mtime_ns for path in sorted(store.rglob("*.safetensors"))] == stamps


def test_an_episode_that_cannot_be_compared_is_encoded_anew(
    old: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path) -> int:
        raise UserError(f"{path} cannot be counted")

    monkeypatch.setattr(recount, "count_frames", fail)
    result = encode_recordings(CONFIG, *old)
    assert (result["kept"], result["encoded_frames"]) == (0, 42) and result["skipped"] == {}
    assert all(episode.counters for episode in LatentStore.open(old[1]).episodes)


def test_an_episode_that_its_recording_contradicts_is_encoded_anew(old: tuple[Path, Path]) -> None:
    recordings, store = old
    episode, other = LatentStore.open(store).episodes
    manifest = read_manifest(store)
    entry = manifest["episodes"][episode.name]
    wrong = type(episode)(**{**vars(episode), "rewards": episode.rewards + 1})
    entry["sha256"] = write_episode(store, wrong, entry["source_sha256"])["sha256"]
    write_manifest(store, manifest)
    result = encode_recordings(CONFIG, recordings, store)
    assert (result["kept"], result["encoded_frames"]) == (1, 21)
    found = LatentStore.open(store).episodes
    assert torch.equal(found[0].rewards, episode.rewards) and found[0].counters and found[1].name == other.name


def test_episodes_aligned_by_number_alone_are_checked_once_and_encoded_again_where_times_say_otherwise(
    tmp_path: Path,
) -> None:
    """One of two VPT recordings has a hole; a store from before times were read does not know."""
    recordings, store = tmp_path / "recordings", tmp_path / "store"
    config = replace(CONFIG, data=DataConfig(env="vpt"))
    for name, lost in (("good", []), ("hole", [5, 6])):
        ticks = [tick for tick in range(40) if tick not in lost]
        write_vpt_recording(recordings, 40, len(ticks), name=name, times=ticks.__getitem__, start=len(name) * 50)
    encode_recordings(config, recordings, store)
    manifest = read_manifest(store)
    files = {name: entry["sha256"] for name, entry in manifest["episodes"].items()}
    for episode in LatentStore.open(store).episodes:
        entry = manifest["episodes"][episode.name]
        assert entry.pop("alignment") == 2
        if episode.name == "hole":
            wrong = type(episode)(**{**vars(episode), "valid": torch.ones_like(episode.valid)})
            entry["sha256"] = write_episode(store, wrong, entry["source_sha256"])["sha256"]
    write_manifest(store, manifest)
    assert "2 episodes of store" in aligned_before(LatentStore.open(store))
    assert "fastdreamer encode" in aligned_before(LatentStore.open(store))
    result = encode_recordings(config, recordings, store)
    assert result["kept"] == 1 and result["encoded_frames"] == 38
    opened = LatentStore.open(store)
    assert {name: entry["sha256"] for name, entry in opened.manifest["episodes"].items()} == files
    assert not aligned_before(opened)
    assert encode_recordings(config, recordings, store)["kept"] == 2


@pytest.mark.parametrize(
    ("ticks", "is_kept"),
    [
        pytest.param([*range(40)], True, id="nothing lost"),
        pytest.param([*range(37)], True, id="frames at the end"),
        pytest.param([*range(20), *range(22, 40)], False, id="frames on the way"),
        pytest.param([*range(39), 45], False, id="the last frame is not the last line's"),
    ],
)
def test_null_frames_that_are_left_out_are_no_reason_to_encode_again(
    tmp_path: Path, ticks: list[int], is_kept: bool
) -> None:
    """A store from before times were read has the same actions each time, but not the same frames."""
    recordings, store = tmp_path / "recordings", tmp_path / "store"
    config = replace(CONFIG, data=DataConfig(env="vpt", skip_null=True))

    def change(lines: list[Any]) -> None:
        for tick in (4, 11, 20, 21, 38):
            lines[tick] = vpt_line()

    write_vpt_recording(recordings, 40, len(ticks), change=change, times=ticks.__getitem__)
    assert encode_recordings(config, recordings, store)["encoded_frames"] < len(ticks)
    manifest = read_manifest(store)
    (entry,) = manifest["episodes"].values()
    assert entry.pop("alignment") == 2
    write_manifest(store, manifest)
    result = encode_recordings(config, recordings, store)
    assert result["kept"] == is_kept and (result["encoded_frames"] == 0) == is_kept
    assert not aligned_before(LatentStore.open(store))
