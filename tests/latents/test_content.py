"""What is behind a right hash is looked at too: an episode that nothing can be learned from is refused by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from encoding.test_encode import CONFIG, _record, _trajectory, _with_data

from fastdreamer.encoding import pipeline as encode_module
from fastdreamer.encoding.pipeline import encode_recordings
from fastdreamer.errors import UserError
from fastdreamer.latents.episode import write_episode
from fastdreamer.latents.manifest import write_manifest
from fastdreamer.latents.store import Episode, LatentStore, read_manifest
from fastdreamer.latents.synthetic import write_synthetic_store
from fastdreamer.recordings.actions import action_space
from fastdreamer.shapes import LatentClock


def put(values: torch.Tensor, place: int, value: float) -> torch.Tensor:
    """A copy with one number changed."""
    changed = values.clone()
    changed.view(-1)[place] = value
    return changed


WRONG: dict[str, tuple[str, Callable[[Episode], dict[str, Any]]]] = {
    "NaN latents": ("latents are not finite", lambda e: {"latents": put(e.latents, 700, float("nan"))}),
    "infinite latents": ("latents are not finite", lambda e: {"latents": put(e.latents, 3, float("-inf"))}),
    "NaN rewards": ("rewards are not finite", lambda e: {"rewards": put(e.rewards, 1, float("nan"))}),
    "an action of 255": ("row 2 of its actions says 255 where 17", lambda e: {"actions": put(e.actions, 2, 255)}),
    "an action too many": ("row 0 of its actions says 17", lambda e: {"actions": put(e.actions, 0, 17)}),
    "narrow latents": (r"latents are float16 \(4, 16, 8\), not", lambda e: {"latents": e.latents[..., :8]}),
    "few tokens": ("latents are", lambda e: {"latents": e.latents[:, :4]}),
    "wide actions": (r"actions are uint8 \(12, 2\)", lambda e: {"actions": e.actions.repeat(1, 2)}),
    "missing latents": ("latents are", lambda e: {"latents": e.latents[:-1]}),
    "missing actions": ("actions are", lambda e: {"actions": e.actions[:-1]}),
    "missing rewards": ("rewards are", lambda e: {"rewards": e.rewards[:-1]}),
    "missing terminals": ("terminals are", lambda e: {"terminals": e.terminals[1:]}),
    "no frame": ("no frame", lambda e: {"valid": e.valid[:0]}),
    "latents of another type": ("latents are float32", lambda e: {"latents": e.latents.float()}),
    "rewards of another type": ("rewards are float64", lambda e: {"rewards": e.rewards.double()}),
    "flat actions": ("actions are", lambda e: {"actions": e.actions[:, 0]}),
    "a number for rewards": ("rewards are", lambda e: {"rewards": e.rewards[0]}),
}


@pytest.mark.parametrize("memory_limit_gb", [4.0, 0.0])
@pytest.mark.parametrize("what", WRONG)
def test_an_episode_that_cannot_be_is_refused_by_name(tmp_path: Path, what: str, memory_limit_gb: float) -> None:
    write_synthetic_store(tmp_path, LatentClock(4, 9), action_space("crafter"), episodes=3, steps=4, seed=0)
    words, change = WRONG[what]
    episode = LatentStore.open(tmp_path).episodes[1]
    manifest = read_manifest(tmp_path)
    manifest["episodes"][episode.name] = write_episode(tmp_path, replace(episode, **change(episode)), "test")
    write_manifest(tmp_path, manifest)
    with pytest.raises(UserError, match=f"synthetic-001.*{words}") as caught:
        LatentStore.open(tmp_path, memory_limit_gb=memory_limit_gb)
    assert "\n" not in str(caught.value)


def test_encode_puts_right_what_the_store_holds_of_the_kind(tmp_path: Path) -> None:
    recordings, store = _record(tmp_path / "recordings", 0, 1, 2), tmp_path / "store"
    encode_recordings(CONFIG, recordings, store)
    known, manifest = LatentStore.open(store).episodes, read_manifest(store)
    name = known[1].name
    entry = manifest["episodes"][name]
    wrong = replace(known[1], latents=put(known[1].latents, 0, float("nan")))
    manifest["episodes"][name] = entry | {"sha256": write_episode(store, wrong, entry["source_sha256"])["sha256"]}
    write_manifest(store, manifest)
    assert encode_recordings(CONFIG, recordings, store)["kept"] == 2
    again = LatentStore.open(store)
    assert all(torch.equal(a.latents, b.latents) for a, b in zip(known, again.episodes, strict=True))


def test_latents_that_are_not_finite_are_set_aside_with_what_made_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recordings, plain, name = _record(tmp_path / "recordings", 0, 1, 2), encode_module._episode, _trajectory(1).name

    def overflowing(*arguments: Any) -> Episode:
        episode = plain(*arguments)
        is_bad = episode.name == name
        return replace(episode, latents=put(episode.latents, 5, float("inf"))) if is_bad else episode

    monkeypatch.setattr(encode_module, "_episode", overflowing)
    result = encode_recordings(_with_data(max_damaged=0.4), recordings, tmp_path / "store")
    assert result["episodes"] == 2 and list(result["skipped"]) == [name]
    assert "eager fp32" in result["skipped"][name] and "latents are not finite" in result["skipped"][name]
    with pytest.raises(UserError, match=r"1 of 3 recordings are damaged.*not finite"):
        encode_recordings(CONFIG, recordings, tmp_path / "other")
