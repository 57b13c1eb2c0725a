"""`inspect` of a latent store: what its manifest says, and no episode is read."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from encoding.test_encode import CONFIG, _record
from encoding.test_growth import clips
from latents.test_journal import enter, opened, recordings

from fastdreamer.cli import main
from fastdreamer.encoding.pipeline import encode_recordings
from fastdreamer.errors import UserError
from fastdreamer.latents.manifest import FOLDER, write_manifest
from fastdreamer.latents.store import LatentStore, read_manifest
from fastdreamer.latents.store_inspection import inspect_store, is_store, render_store


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of three recordings with actions, two plain videos, and a damaged one."""
    folder = tmp_path_factory.mktemp("inspected")
    root = _record(folder / "recordings", 0, 1, 2)
    clips(root / "plain", 2)
    (root / "plain" / "broken.mp4").write_text("none")
    encode_recordings(CONFIG, root, folder / "store")
    return folder / "store"


def test_it_counts_what_opening_finds_and_opens_no_episode(made: Path) -> None:
    opened_files: list[str] = []
    is_on = [True]
    sys.addaudithook(lambda event, args: opened_files.append(str(args[0])) if is_on[0] and event == "open" else None)
    found = inspect_store(made)
    is_on[0] = False
    assert not [file for file in opened_files if FOLDER in file] and str(made / "manifest.json") in opened_files
    store = LatentStore.open(made)
    assert found["episodes"] == len(store.episodes) == 5 and found["bytes"] == store.size_bytes
    assert found["frames"] == sum(e.length for e in store.episodes)
    assert found["steps"] == sum(len(e.latents) for e in store.episodes)
    assert found["splits"] == {name: len(store.split(name)) for name in ("held_out", "train")}
    assert found["tasks"] == {"Crafter-test": 3, "plain": 2} and found["key"] == store.manifest["key"]
    assert (found["unlabelled"], found["unrewarded"]) == (2, 2) and list(found["skipped"]) == ["broken"]
    assert not found["counters"] and found["is_finished"] and not found["missing"]


def test_the_command_takes_a_store(made: Path, capsys: Any) -> None:
    assert main(["inspect", str(made)]) == 0
    said = capsys.readouterr().out
    assert "a latent store of 5 episodes" in said and "splits   held_out" in said
    assert "2 episodes have no actions" in said and "broken: recording broken" in said
    assert not is_store(made.parent / "recordings")
    assert main(["inspect", str(made), "--pictures", "x.png"]) == 2
    assert "has no pictures: name recordings" in capsys.readouterr().err


def test_what_is_missing_or_unfinished_is_said(tmp_path: Path) -> None:
    store, root = tmp_path / "store", tmp_path / "recordings"
    with opened(store, root, recordings(root, "a", "b")) as manifest_writer:
        enter(manifest_writer, "a")
    found = inspect_store(store)
    assert (found["episodes"], found["is_finished"]) == (1, False) and "unfinished" in render_store(found)
    (store / FOLDER / "a.safetensors").unlink()
    assert inspect_store(store)["missing"] == ["a"] and "the first is of a" in render_store(inspect_store(store))


def test_a_strangers_words_are_printed_as_such(tmp_path: Path) -> None:
    store, root = tmp_path / "store", tmp_path / "recordings"
    with opened(store, root, recordings(root, "a")) as manifest_writer:
        enter(manifest_writer, "a")
        manifest_writer.close()
    manifest = read_manifest(store)
    manifest["tasks"], manifest["skipped"] = ["\x1b[2J\n"], {"b\x1b": "\x07"} | {f"c{i}": "x" for i in range(30)}
    manifest["episodes"]["a"]["counters"] = ["wood", "stone"]
    write_manifest(store, manifest)
    assert inspect_store(store)["counters"] == {"stone": 1, "wood": 1}
    said = render_store(inspect_store(store))
    assert all(line.isprintable() for line in said.splitlines()) and said.endswith("and 11 more")
    data = (store / "manifest.json").read_bytes()
    (store / "manifest.json").write_bytes(data.replace(b'"steps": 2', b'"steps": 3'))
    with pytest.raises(UserError, match="damaged"):
        inspect_store(store)
