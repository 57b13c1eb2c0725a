"""Folders as people have them: links in circles, names that no terminal takes, other files beside the clips."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from fastdreamer.errors import UserError
from fastdreamer.recordings import find
from fastdreamer.recordings.actions import action_space
from fastdreamer.recordings.find import BLACKLIST
from fastdreamer.recordings.inspect import inspect_recordings, render_inspection
from fastdreamer.recordings.read import find_incomplete, find_recordings, read_recording
from recordings.fixtures import treechop_arrays, write_minerl_recording
from recordings.video_fixtures import write_video
from recordings.vpt_fixtures import write_vpt_recording

SPACE = action_space("minerl_treechop")


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    """Two clips in a folder of their own."""
    (tmp_path / "clips").mkdir()
    write_video(tmp_path / "clips" / "a.mp4", 3)
    shutil.copyfile(tmp_path / "clips" / "a.mp4", tmp_path / "clips" / "b.mp4")
    return tmp_path / "clips"


def found(root: Path) -> list[tuple[str, str]]:
    return [(recording.name, recording.format) for recording in find_recordings(root)]


PLAIN = [("a", "video"), ("b", "video")]


@pytest.mark.parametrize(
    "links", [{"up": ".."}, {"x": "..", "y": ".."}, {"x": ".", "y": "x"}, {"a0": "../clips", "z": "a0"}]
)
def test_links_in_circles_end_and_each_clip_is_found_once_where_it_lies(clips: Path, links: dict[str, str]):
    for name, target in links.items():
        (clips / name).symlink_to(target)
    assert found(clips.parent) == PLAIN
    assert {recording.path.parent for recording in find_recordings(clips.parent)} == {clips}


def test_a_link_to_itself_is_no_folder(clips: Path):
    (clips / "loop").symlink_to("loop")
    (clips / "loop.mp4").symlink_to("loop.mp4")
    (clips / "gone.mp4").symlink_to("nowhere.mp4")
    assert [name for name, _ in found(clips)] == ["a", "b", "gone", "loop"]
    reasons = {item["name"]: item["reason"] for item in inspect_recordings(clips)["damaged"]}
    assert sorted(reasons) == ["gone", "loop"] and all("no such file" in reason for reason in reasons.values())


def test_a_folder_outside_is_followed(clips: Path):
    (clips.parent / "root").mkdir()
    (clips.parent / "root" / "link").symlink_to(clips)
    assert found(clips.parent / "root") == PLAIN


def test_pipes_are_not_waited_for(clips: Path):
    for name in ("p.mp4", "a.jsonl", "index.json", "x.npz"):
        os.mkfifo(clips / name)
    assert found(clips) == PLAIN


def test_a_folder_that_cannot_be_listed_is_named(clips: Path, monkeypatch: pytest.MonkeyPatch):
    (clips / "locked").mkdir()
    scandir = os.scandir

    def refuse(path: Path) -> object:
        if Path(path).name == "locked":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(find.os, "scandir", refuse)
    assert found(clips) == PLAIN
    assert find_incomplete(clips) == [("locked", f"the folder {clips / 'locked'} cannot be listed (Permission denied)")]
    monkeypatch.setattr(find.os, "scandir", lambda path: refuse(path / "locked"))
    with pytest.raises(UserError, match="cannot be listed"):
        find_recordings(clips)


NAMES = {
    "latin-1": (b"clip\xe9.mp4", "clip%E9"),
    "a new line": (b"a\nb.mp4", "a%0Ab"),
    "escape codes": (b"\x1b[31mred\x1b[0m.mp4", "%1B[31mred%1B[0m"),
    "right to left": ("a\u202eb.mp4".encode(), "a%E2%80%AEb"),
    "letters": ("b\u00e4ume \u6728.mp4".encode(), "b\u00e4ume \u6728"),
}


@pytest.mark.parametrize("kind", NAMES)
def test_names_can_be_printed_and_stored(clips: Path, kind: str):
    name, expected = NAMES[kind]
    (clips / "a.mp4").rename(os.fsdecode(os.fsencode(clips) + b"/" + name))
    (clips / "b.mp4").write_bytes(b"")
    recordings = {recording.name: recording for recording in find_recordings(clips)}
    (found_as,) = recordings.keys() - {"b"}
    assert re.fullmatch(re.escape(expected) + ("" if kind == "letters" else "~[0-9a-f]{8}"), found_as)
    assert len(read_recording(recordings[found_as], SPACE)) == 3
    text = render_inspection(inspect_recordings(clips))
    assert all(line.isprintable() for line in text.split("\n"))


def test_a_name_that_spells_an_escape_out_is_another(clips: Path):
    (clips / "a.mp4").rename(clips / "\udce9.mp4")
    (clips / "b.mp4").rename(clips / "%E9.mp4")
    assert len({name for name, _ in found(clips)}) == 2


@pytest.mark.parametrize("bytes_", [b"\xff.mp4", b"\x1b[2J.mp4", b"a\nb.mp4"])
def test_reasons_can_be_printed(clips: Path, bytes_: bytes):
    (clips / "a.mp4").rename(os.fsdecode(os.fsencode(clips) + b"/" + bytes_))
    next(path for path in clips.iterdir() if path.name != "b.mp4").write_bytes(b"")
    result = inspect_recordings(clips)
    assert result["episodes"] == 1 and len(result["damaged"]) == 1
    reason = result["damaged"][0]["reason"]
    assert reason.isprintable() and "0 bytes" in reason and reason.encode()


def test_names_too_long_for_a_file_are_shortened_and_stay_apart(clips: Path):
    long = "\u6728" * 79  # 237 bytes
    for end in "12":
        shutil.copyfile(clips / "a.mp4", clips / f"{long}{end}.mp4")
    shutil.copyfile(clips / "a.mp4", clips / f"{'x' * 232}.mp4")
    names = [name for name, _ in found(clips)]
    assert len(set(names)) == 5 and "x" * 232 in names
    assert (
        all(len(name.encode()) <= 232 for name in names) and sum(name.startswith("\u6728" * 30) for name in names) == 2
    )
    assert names == [name for name, _ in found(clips)]


OTHERS = {
    "metadata.jsonl": '{"file_name": "a.mp4", "text": "x"}\n',
    "train.jsonl": '["a.mp4", "x"]\n',
    "long.jsonl": '{"text": "' + "x" * (1 << 21) + '"}\n',
    "embeddings.npz": "",
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_files_beside_clips_take_nothing_from_them(clips: Path, name: str):
    if name.endswith(".npz"):
        np.savez(clips / name, a=np.zeros((2, 8)), reward=np.zeros(2))
    else:
        (clips / name).write_text(OTHERS[name])
    assert found(clips) == PLAIN and find_incomplete(clips) == []


def test_captions_beside_each_clip_are_no_actions(clips: Path):
    for name in "ab":
        (clips / f"{name}.jsonl").write_text('{"text": "x", "begin": 0}\n')
    assert found(clips) == PLAIN and find_incomplete(clips) == []


def test_other_files_beside_vpt_pairs_are_not_missing_a_video(tmp_path: Path):
    path = write_vpt_recording(tmp_path, 3)
    (path.parent / "metadata.jsonl").write_text(OTHERS["metadata.jsonl"])
    assert found(tmp_path) == [(path.stem, "vpt")] and find_incomplete(tmp_path) == []


@pytest.mark.parametrize(
    "line", ['{"mouse": {"x": 1.0, "dx"', "?", "{}", "", '{"tick": 3}', json.dumps({"keyboard": None})]
)
def test_damaged_lines_are_lines(clips: Path, line: str):
    """A video never becomes one without actions because its lines are broken."""
    (clips / "a.jsonl").write_text(line)
    assert found(clips) == [("a", "vpt")]
    assert [name for name, _ in find_incomplete(clips)] == ["b"]


@pytest.mark.parametrize("folder", ["v2_clips", "v10_old", f"v3_{BLACKLIST[0]}", f"{BLACKLIST[0]}/more", "v1_a-1_b-c"])
def test_folders_named_a_little_like_minerls_hold_clips(clips: Path, folder: str):
    (clips.parent / "root" / folder).mkdir(parents=True)
    for name in ("a.mp4", "b.mp4"):
        (clips / name).rename(clips.parent / "root" / folder / name)
    assert found(clips.parent / "root") == PLAIN and find_incomplete(clips.parent / "root") == []


def test_the_black_list_names_one_stream(tmp_path: Path):
    folder = write_minerl_recording(tmp_path / BLACKLIST[0], treechop_arrays(3))
    assert [name for name, _ in found(tmp_path)] == [folder.name]
    folder.rename(folder.with_name(f"v3_{BLACKLIST[0]}0_39-520"))
    assert len(found(tmp_path)) == 1
    (folder.parent / f"v3_{BLACKLIST[0]}0_39-520").rename(folder.with_name(f"v3_{BLACKLIST[0]}_39-520"))
    with pytest.raises(UserError, match="black-listed"):
        find_recordings(tmp_path)


@pytest.mark.parametrize("left", ["recording.mp4", "rendered.npz"])
def test_half_a_recording_is_incomplete_whatever_its_folder_is_called(tmp_path: Path, left: str):
    folder = write_minerl_recording(tmp_path, treechop_arrays(3))
    for file in folder.iterdir():
        if file.name != left:
            file.unlink()
    folder.rename(folder.with_name("v3_mine"))
    assert [name for name, _ in find_incomplete(tmp_path)] == ["v3_mine"]


def test_a_version_file_that_cannot_be_read_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_minerl_recording(tmp_path, treechop_arrays(3))
    (tmp_path / "VERSION").write_text("3")

    def refuse(path: Path, *_: object) -> int:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(UserError, match="VERSION: it cannot be read: Permission denied"):
        find_recordings(tmp_path)
