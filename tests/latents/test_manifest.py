"""A store's manifest: every changed byte is noticed, and it names no file but the store's own."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fastdreamer.errors import UserError
from fastdreamer.latents.manifest import FOLDER, write_manifest
from fastdreamer.latents.store import LatentStore, read_manifest
from fastdreamer.latents.synthetic import write_synthetic_store
from fastdreamer.recordings.actions import action_space
from fastdreamer.shapes import LatentClock

Manifest = dict[str, Any]


@pytest.fixture
def store(tmp_path: Path) -> Path:
    write_synthetic_store(tmp_path / "store", LatentClock(4, 9), action_space("crafter"), episodes=3, steps=4, seed=0)
    return tmp_path / "store"


def unhashed(path: Path, change: Callable[[Manifest], object] = lambda manifest: None) -> None:
    """Write it as versions did before manifests hashed themselves."""
    manifest = json.loads((path / "manifest.json").read_text()) | {"format": 1}
    manifest.pop("sha256", None)
    change(manifest)
    (path / "manifest.json").write_text(json.dumps(manifest, indent=1))


def test_every_changed_byte_is_refused_or_says_the_same(store: Path) -> None:
    data, known = (store / "manifest.json").read_bytes(), read_manifest(store)
    random.seed(0)
    tries = [(place, data[place] ^ 1 << random.randrange(8)) for place in range(len(data))]
    tries += [(random.randrange(len(data)), random.randrange(256)) for _ in range(500)]
    refused = 0
    for place, byte in tries:
        (store / "manifest.json").write_bytes(data[:place] + bytes([byte]) + data[place + 1 :])
        try:
            assert read_manifest(store) == known
        except UserError as error:
            refused += 1
            assert "damaged" in str(error) and "\n" not in str(error)
    assert refused > 0.8 * len(tries)


def test_a_manifest_cut_off_anywhere_is_refused(store: Path) -> None:
    data = (store / "manifest.json").read_bytes()
    for length in range(0, len(data) - 2, 7):
        (store / "manifest.json").write_bytes(data[:length])
        with pytest.raises(UserError, match="damaged"):
            read_manifest(store)


def test_a_manifest_from_before_it_hashed_itself_is_read(store: Path) -> None:
    known = read_manifest(store)
    unhashed(store)
    assert read_manifest(store)["episodes"] == known["episodes"]
    assert len(LatentStore.open(store).episodes) == 3


def first(manifest: Manifest) -> Manifest:
    """Its first entry."""
    return next(iter(manifest["episodes"].values()))


WRONG: dict[str, Callable[[Manifest], object]] = {
    "an absolute path": lambda m: first(m).update(file="/etc/hostname"),
    "a path upwards": lambda m: first(m).update(file="../../x"),
    "a folder": lambda m: first(m).update(file=".."),
    "a null byte": lambda m: first(m).update(file="a\0b"),
    "no file": lambda m: first(m).pop("file"),
    "no split": lambda m: first(m).pop("split"),
    "a split that there is not": lambda m: first(m).update(split="test"),
    "a task of text": lambda m: first(m).update(task="0"),
    "a task below 0": lambda m: first(m).update(task=-1),
    "a task that is true": lambda m: first(m).update(task=True),
    "an entry of text": lambda m: m["episodes"].update(x="y"),
    "episodes in a list": lambda m: m.update(episodes=list(m["episodes"])),
    "no clock": lambda m: m["key"].pop("window"),
    "an impossible clock": lambda m: m["key"].update(window=3),
    "a clock of text": lambda m: m["key"].update(frames_per_latent="4"),
    "no actions": lambda m: m["space"].pop("name"),
    "tasks of numbers": lambda m: m.update(tasks=[1]),
    "counters of numbers": lambda m: first(m).update(counters=[1]),
    "deep nesting": lambda m: m.update(skipped={"a": json.loads("[" * 900 + "]" * 900)}),
}


@pytest.mark.parametrize("is_hashed", [True, False])
@pytest.mark.parametrize("what", WRONG)
def test_what_no_manifest_can_say_is_refused_in_one_line(store: Path, what: str, is_hashed: bool) -> None:
    """Hashed as it should be, or from before: a stranger can write both."""
    if is_hashed:
        manifest = read_manifest(store)
        WRONG[what](manifest)
        write_manifest(store, manifest)
    else:
        unhashed(store, WRONG[what])
    if what == "deep nesting":
        assert read_manifest(store)["episodes"], "nobody reads what is in there"
        return
    with pytest.raises(UserError, match="damaged") as caught:
        LatentStore.open(store)
    assert "\n" not in str(caught.value) and "rm " not in str(caught.value)


@pytest.mark.parametrize("text", ["[]", "null", "1", '"x"', "{}", "[" * 5000, '{"format": [1]}', "9" * 5000, "\xff"])
def test_what_is_no_manifest_is_refused_in_one_line(store: Path, text: str) -> None:
    (store / "manifest.json").write_text(text, encoding="latin-1")
    with pytest.raises(UserError, match="damaged"):
        LatentStore.open(store)


def test_a_file_outside_of_the_store_is_not_even_opened(store: Path, tmp_path: Path) -> None:
    episode = next((store / FOLDER).iterdir())
    outside = episode.rename(tmp_path / "outside.safetensors")
    for name in (str(outside), "../../outside.safetensors"):
        manifest = read_manifest(store)
        first(manifest)["file"] = name
        write_manifest(store, manifest)
        with pytest.raises(UserError, match="file"):
            LatentStore.open(store)
        first(manifest)["file"] = episode.name
        write_manifest(store, manifest)
