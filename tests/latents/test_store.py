"""The latent store: keys, damage, splits, statistics."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fastdreamer.config import Config, TokenizerConfig
from fastdreamer.errors import UserError
from fastdreamer.latents.episode import write_episode
from fastdreamer.latents.manifest import FOLDER, write_manifest
from fastdreamer.latents.splits import assign_splits
from fastdreamer.latents.store import Episode, LatentStore, read_manifest, step_valid, store_key
from fastdreamer.latents.synthetic import write_synthetic_store
from fastdreamer.recordings.actions import action_space
from fastdreamer.shapes import LatentClock

CLOCK = LatentClock(4, 9)
SPACE = action_space("crafter")


@pytest.fixture
def store(tmp_path: Path) -> Path:
    write_synthetic_store(tmp_path / "store", CLOCK, SPACE, episodes=5, steps=7, seed=0)
    return tmp_path / "store"


def _replace(path: Path, *episodes: Episode) -> None:
    """Make the store hold exactly these episodes."""
    manifest = read_manifest(path)
    manifest["episodes"] = {e.name: write_episode(path, e, "test") for e in episodes}
    write_manifest(path, manifest)


@pytest.mark.parametrize("env", ["crafter", "minerl_treechop", "minerl_obtain"])
@pytest.mark.parametrize("clock", [LatentClock(1, 1), CLOCK])
def test_a_synthetic_store_has_the_shapes_of_a_real_one(tmp_path: Path, env: str, clock: LatentClock) -> None:
    space = action_space(env)
    write_synthetic_store(tmp_path, clock, space, episodes=3, steps=6, seed=1)
    store = LatentStore.open(tmp_path)
    assert store.clock == clock and store.space == space
    assert len(store.episodes) == 3 and store.split("train") and store.split("held_out")
    for episode in store.episodes:
        frames = 1 + 5 * clock.frames_per_latent
        assert episode.length == frames and episode.latents.shape == (6, 16, 16)
        assert episode.latents.dtype == torch.float16 and episode.latents.isfinite().all()
        assert episode.actions.shape == (frames - 1, len(space.sizes))
        assert (episode.actions.long() < torch.tensor(space.sizes)).all()
        assert len(episode.rewards) == len(episode.terminals) == frames - 1


def test_synthetic_episodes_depend_on_the_seed_alone(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        write_synthetic_store(tmp_path / name, CLOCK, SPACE, episodes=2, steps=3, seed=seed)
    a, b, c = (LatentStore.open(tmp_path / name).episodes[0].latents for name in "abc")
    assert torch.equal(a, b) and not torch.equal(a, c)


def test_a_mapped_store_holds_the_same(store: Path) -> None:
    in_ram, mapped = LatentStore.open(store), LatentStore.open(store, memory_limit_gb=0)
    assert mapped.is_on_disk and not in_ram.is_on_disk and in_ram.size_bytes == mapped.size_bytes > 5 * 7 * 512
    for a, b in zip(in_ram.episodes, mapped.episodes, strict=True):
        assert torch.equal(a.latents, b.latents) and torch.equal(a.actions, b.actions)


def test_what_is_unknown_of_an_episode_is_kept_and_old_manifests_know_all(store: Path) -> None:
    first, second, *_ = LatentStore.open(store).episodes
    _replace(store, dataclasses.replace(first, rewarded=False), dataclasses.replace(second, labelled=False))
    opened = LatentStore.open(store).episodes
    assert [(e.labelled, e.rewarded) for e in opened] == [(True, False), (False, True)]
    manifest = read_manifest(store)
    for entry in manifest["episodes"].values():
        del entry["rewarded"]
    write_manifest(store, manifest)
    assert all(episode.rewarded for episode in LatentStore.open(store).episodes)


def test_a_key_that_does_not_match_is_refused_with_the_command(store: Path) -> None:
    key = read_manifest(store)["key"]
    assert LatentStore.open(store, key).episodes
    with pytest.raises(UserError, match="tokenizer synthetic instead of other.*fastdreamer encode"):
        LatentStore.open(store, {**key, "tokenizer": "other"})
    with pytest.raises(UserError, match="pool"):
        LatentStore.open(store, {**key, "pool": 2})


@pytest.mark.parametrize("memory_limit_gb", [4.0, 0.0])
def test_a_flipped_bit_anywhere_is_refused(store: Path, memory_limit_gb: float) -> None:
    file = sorted((store / FOLDER).iterdir())[1]
    content = bytearray(file.read_bytes())
    for place in (3, len(content) // 2, len(content) - 1):
        content[place] ^= 1
        file.write_bytes(content)
        with pytest.raises(UserError, match=r"damaged.*fastdreamer encode") as caught:
            LatentStore.open(store, memory_limit_gb=memory_limit_gb)
        assert str(file) in str(caught.value) and "\n" not in str(caught.value)
        content[place] ^= 1
        file.write_bytes(content)
    assert LatentStore.open(store)


def test_a_store_that_is_missing_or_broken_is_one_line(store: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no latent store"):
        LatentStore.open(tmp_path / "nowhere")
    next((store / FOLDER).iterdir()).unlink()
    with pytest.raises(UserError, match="lacks the file"):
        LatentStore.open(store)
    for text in ("{", "[]", '{"format": 99, "key": {}, "space": {}, "episodes": {}}', '{"format": 1}'):
        (store / "manifest.json").write_text(text)
        with pytest.raises(UserError, match="manifest"):
            LatentStore.open(store)


def test_other_actions_of_the_same_name_are_refused(store: Path) -> None:
    manifest = read_manifest(store)
    manifest["space"]["fingerprint"] = "0"
    write_manifest(store, manifest)
    with pytest.raises(UserError, match="another version of the crafter actions"):
        LatentStore.open(store)


@given(count=st.integers(0, 40), fraction=st.floats(0.01, 0.5))
def test_both_splits_have_an_episode_and_adding_one_moves_none(count: int, fraction: float) -> None:
    names = [f"episode-{i}" for i in range(count)]
    splits = assign_splits(names, fraction)
    assert set(splits) == set(names) and splits == assign_splits(reversed(names), fraction)
    if count >= 2:
        assert set(splits.values()) == {"train", "held_out"}
    if count == 1:
        assert set(splits.values()) == {"train"}
    grown = assign_splits([*names, "another"], fraction)
    moved = [name for name in names if grown[name] != splits[name]]
    assert len(moved) <= 1 and (count < 20 or fraction < 0.2 or not moved)


def test_the_split_follows_the_fraction() -> None:
    splits = assign_splits([f"episode-{i}" for i in range(2000)], 0.1)
    assert 150 < list(splits.values()).count("held_out") < 250


def test_statistics_are_those_of_the_valid_training_steps(store: Path) -> None:
    generator = torch.Generator().manual_seed(0)

    def episode(name: str, split: str, frames: int, invalid: int) -> Episode:
        latents = 100 + torch.randn(CLOCK.steps(frames), 16, 16, generator=generator) * torch.arange(1, 17)
        valid = torch.ones(frames, dtype=torch.bool)
        valid[frames - invalid :] = False
        zeros = torch.zeros(frames - 1)
        actions = torch.zeros(frames - 1, 1, dtype=torch.uint8)
        return Episode(name, split, latents.half(), actions, zeros, zeros.bool(), valid)

    # 22 frames: step 6 is padded (frame 21 of 21..24). 21 frames, 3 invalid: step 5 (frames 17..20) does not count.
    train = [episode("a", "train", 22, 0), episode("b", "train", 21, 3)]
    _replace(store, *train, episode("c", "held_out", 21, 0))
    mean, std = LatentStore.open(store).statistics()
    a, b = (e.latents.double() for e in train)
    by_position = [torch.cat([a[:1], b[:1]]), torch.cat([a[[1, 3, 5]], b[[1, 3]]]), torch.cat([a[[2, 4]], b[[2, 4]]])]
    for position, steps in enumerate(by_position):
        expected_std, expected_mean = torch.std_mean(steps.flatten(0, 1), 0, correction=0)
        torch.testing.assert_close(mean[position], expected_mean.float(), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(std[position], expected_std.float(), rtol=1e-5, atol=1e-5)


def test_a_position_that_never_occurs_takes_the_overall_statistics(tmp_path: Path) -> None:
    write_synthetic_store(tmp_path, LatentClock(2, 9), SPACE, episodes=2, steps=2, seed=0)
    store = LatentStore.open(tmp_path)
    mean, std = store.statistics()
    overall = store.split("train")[0].latents.double().flatten(0, 1)
    torch.testing.assert_close(mean[4], overall.mean(0).float())
    torch.testing.assert_close(std[4], overall.std(0, correction=0).float())


def test_a_step_is_valid_when_all_its_frames_are() -> None:
    valid = torch.tensor([True, True, True, True, True, True, False, True, True, True])
    assert step_valid(valid, CLOCK).tolist() == [True, True, False, False]
    assert step_valid(valid[:5], CLOCK).tolist() == [True, True]
    assert step_valid(valid[:1], CLOCK).tolist() == [True]
    assert step_valid(valid, LatentClock(1, 1)).tolist() == valid.tolist()


def test_the_key_follows_every_setting_that_changes_latents() -> None:
    configs = [
        Config(),
        Config(tokenizer=TokenizerConfig(image_size=128, pool=4)),
        Config(tokenizer=TokenizerConfig(frames_per_latent=2, window=9)),
        dataclasses.replace(Config(), data=dataclasses.replace(Config().data, env="minerl_navigate")),
    ]
    keys = [store_key(config, "t") for config in configs]
    keys += [store_key(Config(), "u"), store_key(Config(), "t", "bf16"), store_key(Config(), "t", "fp32", "tensorrt")]
    assert len({json.dumps(key) for key in keys}) == len(keys)
