"""A store that grows: what is in it keeps its name, its split and its task; the same video counts once."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from encoding.test_encode import CONFIG, _record, _trajectory
from recordings.video_fixtures import write_video
from recordings.vpt_fixtures import write_vpt_recording

from fastdreamer.encoding import pipeline as encode_module
from fastdreamer.encoding.pipeline import encode_recordings
from fastdreamer.latents.manifest import FOLDER
from fastdreamer.latents.splits import natural_split
from fastdreamer.latents.store import LatentStore, read_manifest
from fastdreamer.recordings.find import find_recordings
from fastdreamer.recordings.identity import content_of


def clips(folder: Path, count: int, first: int = 0) -> None:
    """ep0.mp4 .. of different lengths and pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        write_video(folder / f"ep{i}.mp4", 5 + i, start=first + 100 * i)


def what_is_there(store: Path) -> dict[str, tuple[str, str, str, str]]:
    """Returns each episode's latents, its split and its task by name and number."""
    manifest = read_manifest(store)
    return {
        name: (entry["sha256"], entry["split"], entry["task"], manifest["tasks"][entry["task"]])
        for name, entry in manifest["episodes"].items()
    }


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the episodes that are encoded."""
    names: list[str] = []
    plain = encode_module._episode
    monkeypatch.setattr(encode_module, "_episode", lambda *a: names.append(a[0].recording.name) or plain(*a))
    return names


def as_before_paths(store: Path) -> None:
    """Write the manifest as versions did that noted no paths and did not hash it."""
    manifest = read_manifest(store) | {"format": 1}
    for entry in manifest["episodes"].values():
        entry.pop("path")
        entry.pop("video_sha256")
    (store / "manifest.json").write_text(json.dumps(manifest, indent=1))


@pytest.mark.parametrize("before", [lambda store: None, as_before_paths], ids=["new", "old"])
def test_a_folder_added_before_the_others_changes_nothing_of_them(
    tmp_path: Path, before: Callable[[Path], None], encoded: list[str], capsys: Any
) -> None:
    recordings, store = tmp_path / "recordings", tmp_path / "store"
    clips(recordings / "B", 6)
    assert not encode_recordings(CONFIG, recordings, store)["changes"], "all of a new store is new"
    before(store)
    old = what_is_there(store)
    encoded.clear()
    clips(recordings / "A", 6, first=3000)
    result = encode_recordings(CONFIG, recordings, store)
    now = what_is_there(store)
    assert {name: now[name] for name in old} == old
    assert (result["kept"], result["episodes"]) == (6, 12) and len(encoded) == 6
    assert read_manifest(store)["tasks"] == ["B", "A"]
    assert {now[name][3] for name in now.keys() - old.keys()} == {"A"}
    assert result["changes"] == "6 new" and "the store changed; episodes: 6 new\n" in capsys.readouterr().out
    assert not encode_recordings(CONFIG, recordings, store)["changes"]
    assert "changed" not in capsys.readouterr().out


def test_a_small_store_that_grows_moves_nothing_into_another_split(tmp_path: Path) -> None:
    """One episode at a time, in an order in which the forced pick would move on whenever a lower rank comes."""
    recordings, store = tmp_path / "recordings", tmp_path / "store"
    trained = [seed for seed in range(8) if natural_split(_trajectory(seed).name, 0.1) == "train"]
    falling = sorted(trained, key=lambda seed: sha256(_trajectory(seed).name.encode()).digest(), reverse=True)[:4]
    seen: dict[str, Any] = {}
    for seed in falling:
        _record(recordings, seed)
        encode_recordings(CONFIG, recordings, store)
        now = what_is_there(store)
        assert {name: now[name] for name in seen} == seen
        seen = now
    assert {entry[1] for entry in seen.values()} == {"train", "held_out"}


def test_the_last_held_out_episode_may_leave_and_none_takes_its_place(tmp_path: Path, capsys: Any) -> None:
    recordings, store = _record(tmp_path / "recordings", 0, 1, 2), tmp_path / "store"
    encode_recordings(CONFIG, recordings, store)
    old = what_is_there(store)
    (held,) = (name for name, entry in old.items() if entry[1] == "held_out")
    shutil.rmtree(recordings / "Crafter-test" / held)
    result = encode_recordings(CONFIG, recordings, store)
    assert (result["left"], result["changes"]) == (1, "1 gone")
    assert f"{held} left the store" in capsys.readouterr().out
    assert what_is_there(store) == {name: entry for name, entry in old.items() if name != held}


@pytest.mark.parametrize("how", ["link", "hard link", "folder"])
def test_a_link_to_what_is_there_counts_once(tmp_path: Path, how: str) -> None:
    recordings, store = tmp_path / "recordings", tmp_path / "store"
    clips(recordings / "B", 3)
    other = recordings / "B" / "a-first-by-name.mp4"
    match how:
        case "link":
            other.symlink_to("ep1.mp4")
        case "hard link":
            os.link(recordings / "B" / "ep1.mp4", other)
        case "folder":
            (recordings / "A").symlink_to("B")
    result = encode_recordings(CONFIG, recordings, store)
    assert result["episodes"] == 3 and len(what_is_there(store)) == 3
    if how == "link":
        assert "ep1" in what_is_there(store), "the file counts, not the link to it"
        assert result["links"] == {"a-first-by-name": "ep1"}


def test_a_link_to_what_the_store_has_is_not_taken_for_it(tmp_path: Path, encoded: list[str]) -> None:
    recordings, store = tmp_path / "recordings", tmp_path / "store"
    clips(recordings / "B", 3)
    encode_recordings(CONFIG, recordings, store)
    old = what_is_there(store)
    encoded.clear()
    (recordings / "A").mkdir()
    for number in range(3):
        (recordings / "A" / f"ep{number}.mp4").symlink_to(recordings / "B" / f"ep{number}.mp4")
    encode_recordings(CONFIG, recordings, store)
    assert what_is_there(store) == old and not encoded


def test_copies_are_on_the_side_of_what_they_are_copies_of(tmp_path: Path) -> None:
    recordings, store = tmp_path / "recordings", tmp_path / "store"
    clips(recordings / "B", 3)
    encode_recordings(CONFIG, recordings, store)
    old = what_is_there(store)
    assert {entry[1] for entry in old.values()} == {"train", "held_out"}
    for number in range(12):
        for clip in range(3):
            shutil.copy(recordings / "B" / f"ep{clip}.mp4", recordings / "B" / f"copy-{clip}-{number}.mp4")
    assert encode_recordings(CONFIG, recordings, store)["episodes"] == 39
    now = what_is_there(store)
    assert {name: now[name] for name in old} == old
    assert all(now[name][1] == old[f"ep{name.split('-')[1]}"][1] for name in now.keys() - old.keys())


def test_copies_of_one_clip_alone_are_divided_as_if_they_were_none(tmp_path: Path) -> None:
    recordings, store = tmp_path / "recordings", tmp_path / "store"
    clips(recordings, 1)
    for number in range(5):
        shutil.copy(recordings / "ep0.mp4", recordings / f"copy-{number}.mp4")
    encode_recordings(CONFIG, recordings, store)
    old = what_is_there(store)
    assert len(old) == 6 and {entry[1] for entry in old.values()} == {"train", "held_out"}
    (recordings / "more").mkdir()
    for number in range(5):
        shutil.copy(recordings / "ep0.mp4", recordings / "more" / f"copy-{number}.mp4")
    encode_recordings(CONFIG, recordings, store)
    now = what_is_there(store)
    assert len(now) == 11 and {name: now[name] for name in old} == old


def test_one_video_with_two_labels_is_on_one_side(tmp_path: Path) -> None:
    """Found together, and when the second comes later."""
    recordings, store = tmp_path / "recordings", tmp_path / "store"
    for number in range(4):
        write_vpt_recording(recordings, 12, name=f"one{number}", change=lambda lines: lines[0].update(note=number))  # noqa: B023
    settings = replace(CONFIG, data=replace(CONFIG.data, env="vpt"))
    write_vpt_recording(recordings, 14, name="other")
    encode_recordings(settings, recordings, store)
    now = what_is_there(store)
    assert len(now) == 5 and len({entry[1] for name, entry in now.items() if name != "other"}) == 1
    assert {entry[1] for entry in now.values()} == {"train", "held_out"}
    write_vpt_recording(recordings, 12, name="later", change=lambda lines: lines[0].update(note="later"))
    encode_recordings(settings, recordings, store)
    assert what_is_there(store)["later"][1] == now["one0"][1]


def test_moved_and_renamed_recordings_stay_the_episodes_that_they_are(tmp_path: Path, encoded: list[str]) -> None:
    recordings, store = tmp_path / "recordings", tmp_path / "store"
    clips(recordings / "B", 4)
    encode_recordings(CONFIG, recordings, store)
    old = what_is_there(store)
    encoded.clear()
    (recordings / "B").rename(recordings / "C")
    clips(recordings / "A", 1, first=5000)
    encode_recordings(CONFIG, recordings, store)
    now = what_is_there(store)
    assert {name: now[name] for name in old} == old and encoded == ["A.ep0"]
    (recordings / "C" / "ep2.mp4").rename(recordings / "C" / "another.mp4")
    encode_recordings(CONFIG, recordings, store)
    assert {name: entry[:3] for name, entry in what_is_there(store).items()} == {
        name: entry[:3] for name, entry in now.items()
    }


def test_a_name_that_another_recording_had_is_not_given_away(tmp_path: Path) -> None:
    """`x` moves and is called `y` now; what is called `x` instead is another one."""
    recordings, store = tmp_path / "recordings", tmp_path / "store"
    clips(recordings / "B", 2)
    encode_recordings(CONFIG, recordings, store)
    old = what_is_there(store)
    (recordings / "B" / "ep1.mp4").rename(recordings / "B" / "y.mp4")
    write_video(recordings / "ep1.mp4", 9, start=700)
    encode_recordings(CONFIG, recordings, store)
    now = what_is_there(store)
    assert {name: now[name] for name in old} == old and now.keys() - old.keys() == {"ep1~2"}


def test_a_root_one_level_up_changes_nothing(tmp_path: Path, encoded: list[str]) -> None:
    recordings, store = tmp_path / "recordings", tmp_path / "store"
    clips(recordings / "B", 3)
    encode_recordings(CONFIG, recordings / "B", store)
    old = what_is_there(store)
    encoded.clear()
    clips(recordings / "A", 1, first=5000)
    assert encode_recordings(CONFIG, recordings, store)["left"] == 0
    now = what_is_there(store)
    assert {name: now[name] for name in old} == old and encoded == ["A.ep0"]


def test_a_replaced_recording_is_encoded_anew_where_it_was(tmp_path: Path, encoded: list[str]) -> None:
    recordings, store = tmp_path / "recordings", tmp_path / "store"
    clips(recordings / "B", 3)
    encode_recordings(CONFIG, recordings, store)
    old = what_is_there(store)
    encoded.clear()
    write_video(recordings / "B" / "ep1.mp4", 8, start=900)
    clips(recordings / "A", 3, first=5000)
    assert encode_recordings(CONFIG, recordings, store)["changes"] == "3 new, 1 encoded anew"
    now = what_is_there(store)
    assert sorted(encoded) == ["A.ep0", "A.ep1", "A.ep2", "ep1"]
    assert now["ep1"][0] != old["ep1"][0]
    assert {name: now[name][1:] for name in old} == {name: entry[1:] for name, entry in old.items()}


def test_an_old_store_is_not_encoded_again(tmp_path: Path, encoded: list[str]) -> None:
    """Also where a file beside the video counted as the video's own then."""
    recordings, store = tmp_path / "recordings", tmp_path / "store"
    clips(recordings / "B", 3)
    (recordings / "B" / "ep1.info.json").write_text("{}")
    encode_recordings(CONFIG, recordings, store)
    as_before_paths(store)
    manifest = json.loads((store / "manifest.json").read_text())
    for recording in find_recordings(recordings):
        manifest["episodes"][recording.name]["source_sha256"] = content_of(recording, is_old=True).source
    (store / "manifest.json").write_text(json.dumps(manifest))
    old = what_is_there(store)
    encoded.clear()
    assert encode_recordings(CONFIG, recordings, store)["kept"] == 3 and not encoded
    assert what_is_there(store) == old
    settled = (store / "manifest.json").read_bytes()
    (recordings / "B" / "ep1.info.json").write_text("{ }")
    assert encode_recordings(CONFIG, recordings, store)["kept"] == 3 and not encoded
    assert (store / "manifest.json").read_bytes() == settled, "nothing is written where nothing changed"
    assert len(LatentStore.open(store).episodes) == len(list((store / FOLDER).iterdir())) == 3
