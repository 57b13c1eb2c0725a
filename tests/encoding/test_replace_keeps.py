"""What of an old store is still the same recording keeps its name, split and task in the one that replaces it."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from encoding.test_encode import CONFIG
from encoding.test_growth import clips
from recordings.video_fixtures import remux

from fastdreamer.config import Config
from fastdreamer.encoding.pipeline import encode_recordings
from fastdreamer.encoding.replace import replace_store
from fastdreamer.latents.entries import HEIRLOOMS, fault
from fastdreamer.latents.manifest import write_manifest
from fastdreamer.latents.splits import divide, natural_split, same_videos
from fastdreamer.latents.store import LatentStore, read_manifest

OTHERWISE = replace(CONFIG, tokenizer=replace(CONFIG.tokenizer, window=5))


def what_is_there(store: Path) -> dict[str, tuple[str, str]]:
    """Split and task of each episode."""
    manifest = read_manifest(store)
    return {name: (e["split"], manifest["tasks"][e["task"]]) for name, e in manifest["episodes"].items()}


@pytest.fixture
def grown(tmp_path: Path) -> tuple[Path, Path]:
    """A store that grew: its names, splits and tasks are not what a fresh one of the same recordings would have."""
    recordings, store = tmp_path / "recordings", tmp_path / "store"
    clips(recordings / "B", 2)
    encode_recordings(CONFIG, recordings, store)
    clips(recordings / "A", 2, first=500)
    encode_recordings(CONFIG, recordings, store)
    return recordings, store


def test_names_splits_and_tasks_stay(grown: tuple[Path, Path], tmp_path: Path):
    recordings, store = grown
    old = what_is_there(store)
    encode_recordings(OTHERWISE, recordings, tmp_path / "fresh")
    assert what_is_there(tmp_path / "fresh") != old, "nothing is shown otherwise"
    tasks = read_manifest(store)["tasks"]
    replace_store(OTHERWISE, recordings, store)
    assert what_is_there(store) == old and read_manifest(store)["tasks"] == tasks
    assert HEIRLOOMS not in json.loads((store / "manifest.json").read_text())
    assert LatentStore.open(store).manifest["key"]["window"] == OTHERWISE.tokenizer.window


def test_a_replacing_that_was_stopped_keeps_them_too(grown: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch):
    recordings, store = grown
    old = what_is_there(store)
    with monkeypatch.context() as patch:
        patch.setattr(
            "fastdreamer.encoding.manifest_writer.ManifestWriter.close", lambda _: exec("raise KeyboardInterrupt")
        )
        with pytest.raises(KeyboardInterrupt):
            replace_store(OTHERWISE, recordings, store)
    replace_store(OTHERWISE, recordings, store)
    assert what_is_there(store) == old


def test_another_share_to_hold_out_divides_anew(grown: tuple[Path, Path], capsys: pytest.CaptureFixture[str]):
    recordings, store = grown
    names = what_is_there(store).keys()
    other: Config = replace(OTHERWISE, data=replace(OTHERWISE.data, held_out=0.5))
    replace_store(other, recordings, store)
    assert "splits begin anew" in capsys.readouterr().out
    there = what_is_there(store)
    natural = {name: natural_split(name, 0.5) for name in names}
    assert {name: split for name, (split, _) in there.items()} == divide(natural, dict.fromkeys(names, ""), {})


def without_note(store: Path) -> None:
    """As stores were written before they noted what is held out."""
    manifest = read_manifest(store)
    del manifest["held_out"]
    write_manifest(store, manifest)


@pytest.mark.parametrize("held_out", [0.1, 0.5])
def test_where_what_was_held_out_is_not_noted_splits_stay_and_it_is_said(
    grown: tuple[Path, Path], capsys: pytest.CaptureFixture[str], held_out: float
):
    """The new share was taken for the old one: splits stayed without a word, and the new store noted a wrong one."""
    recordings, store = grown
    without_note(store)
    old = what_is_there(store)
    replace_store(replace(OTHERWISE, data=replace(OTHERWISE.data, held_out=held_out)), recordings, store)
    assert what_is_there(store) == old
    assert "does not note what data.held_out was: splits stay" in capsys.readouterr().out
    assert "held_out" not in read_manifest(store)


def killed_between_the_renames(recordings: Path, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rename = os.rename

    def until_the_second(source: Path, target: Path) -> None:
        if target == store:
            raise KeyboardInterrupt
        rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr("fastdreamer.encoding.replace.os.rename", until_the_second)
        with pytest.raises(KeyboardInterrupt):
            replace_store(OTHERWISE, recordings, store)
    assert not store.exists()


@pytest.mark.parametrize("window", [OTHERWISE.tokenizer.window, 9])
@pytest.mark.parametrize("is_readable", [True, False])
def test_a_stop_between_the_renames_keeps_them_whatever_comes_next(
    grown: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    window: int,
    is_readable: bool,
):
    """They were asked of the store that is not there: settings that changed meanwhile lost them all."""
    recordings, store = grown
    old = what_is_there(store)
    killed_between_the_renames(recordings, store, monkeypatch)
    if not is_readable:
        (store.with_name(".store.new") / "manifest.json").unlink()
    capsys.readouterr()
    replace_store(replace(OTHERWISE, tokenizer=replace(OTHERWISE.tokenizer, window=window)), recordings, store)
    assert what_is_there(store) == old and read_manifest(store)["key"]["window"] == window
    assert f"{store} stays" not in (text := capsys.readouterr().out) and "begin anew" not in text
    assert not [path for path in store.parent.iterdir() if path.name.startswith(".store")]


def test_splits_follow_videos_that_changed_places(tmp_path: Path):
    recordings, store = tmp_path / "recordings", tmp_path / "store"
    clips(recordings / "B", 4)
    encode_recordings(CONFIG, recordings, store)
    before = read_manifest(store)["episodes"]
    one = next(name for name, entry in before.items() if entry["split"] == "train")
    other = next(name for name, entry in before.items() if entry["split"] == "held_out")
    here, there = (recordings / before[name]["path"] for name in (one, other))
    shutil.move(here, tmp_path / "aside")
    shutil.move(there, here)
    shutil.move(tmp_path / "aside", there)
    encode_recordings(CONFIG, recordings, store)
    after = read_manifest(store)["episodes"]
    sides = [{entry["video_sha256"]: entry["split"] for entry in found.values()} for found in (before, after)]
    assert sides[0] == sides[1], "what was trained on is held out now"


def test_one_video_in_two_containers_is_on_one_side(tmp_path: Path):
    recordings, store = tmp_path / "recordings", tmp_path / "store"
    clips(recordings / "B", 6)
    encode_recordings(CONFIG, recordings, store)
    entries = read_manifest(store)["episodes"]
    held = next(name for name, entry in entries.items() if entry["split"] == "held_out")
    for number in range(8):
        remux(recordings / entries[held]["path"], recordings / "B" / f"copy{number}.mkv")
    encode_recordings(CONFIG, recordings, store)
    found = read_manifest(store)["episodes"]
    assert len(found) == 14
    assert {found[f"copy{number}"]["split"] for number in range(8)} == {"held_out"}


def test_marks_join_videos_over_several_steps():
    entries = {
        "file": {"video_sha256": "a"},
        "same file": {"video_sha256": "a", "sampled_sha256": "x"},
        "same pixels": {"video_sha256": "b", "sampled_sha256": "x"},
        "other": {"video_sha256": "c", "sampled_sha256": "y"},
        "unknown": {},
    }
    found = same_videos(entries)
    assert found["file"] == found["same file"] == found["same pixels"] != found["other"]
    assert found["unknown"] == "" != found["other"]


def test_what_is_taken_over_is_checked(grown: tuple[Path, Path]):
    manifest = read_manifest(grown[1])
    assert not fault(manifest)
    assert "heirlooms.a" in fault(manifest | {HEIRLOOMS: {"a": {"split": "train"}}})
    assert "heirlooms.a" in fault(manifest | {HEIRLOOMS: {"a": {"source_sha256": "", "split": "x"}}})
