"""A journal that several processes write, on one machine or on several: none loses what another wrote."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from latents.test_journal import enter, opened, recordings

from fastdreamer.errors import UserError
from fastdreamer.latents.journal import JOURNAL
from fastdreamer.latents.store import read_manifest


def test_who_is_told_that_there_is_no_journal_loses_nothing_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a client of NFS may be for a minute, of a file that another machine has just made; making it asks anew."""
    store, root = tmp_path / "store", tmp_path / "recordings"
    found = recordings(root, "a", "b", "c")
    with opened(store, root, found) as first, opened(store, root, found) as second:
        enter(first, "a")
        enter(first, "b")
        with monkeypatch.context() as patch:
            patch.setattr("fastdreamer.latents.journal._tail", lambda path, start: b"")
            patch.setattr(Path, "exists", lambda path: False)
            enter(second, "c")
        assert second.current(second.found["a"]) is not None
        assert len(second._journal.lines) == 3 and list(read_manifest(store)["episodes"]) == ["a", "b", "c"]
    assert (store / JOURNAL).read_bytes().count(b"\n") == 3


def test_who_is_told_that_there_is_no_store_begins_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, root = tmp_path / "store", tmp_path / "recordings"
    found = recordings(root, "a", "b")
    with opened(store, root, found) as first:
        enter(first, "a")
        first.close()
    before = (store / "manifest.json").read_bytes()
    monkeypatch.setattr(Path, "exists", lambda path: False)
    with opened(store, root, found) as second:
        assert (store / "manifest.json").read_bytes() == before and second.current(second.found["a"]) is not None
    assert sorted(file.name for file in store.iterdir()) == [".claims", "episodes", "manifest.json"]


def test_a_journal_that_leads_elsewhere_is_not_followed(tmp_path: Path) -> None:
    store, root = tmp_path / "store", tmp_path / "recordings"
    with opened(store, root, recordings(root, "a")) as manifest_writer:
        (store / JOURNAL).symlink_to(tmp_path / "elsewhere")
        with pytest.raises(UserError, match=r"cannot write .*journal.jsonl"):
            enter(manifest_writer, "a")
    assert not (tmp_path / "elsewhere").exists()


def test_a_copy_of_hard_links_is_another_store(tmp_path: Path) -> None:
    store, root, copy = tmp_path / "store", tmp_path / "recordings", tmp_path / "copy"
    with opened(store, root, recordings(root, "a", "b")) as manifest_writer:
        enter(manifest_writer, "a")
        shutil.copytree(store, copy, copy_function=os.link)
        before = (copy / JOURNAL).read_bytes()
        enter(manifest_writer, "b")
    assert (copy / JOURNAL).read_bytes() == before
    assert list(read_manifest(store)["episodes"]) == ["a", "b"] and list(read_manifest(copy)["episodes"]) == ["a"]


def test_what_another_process_adds_is_not_what_left(tmp_path: Path) -> None:
    """The last to leave knew less than the other when it began."""
    store, root = tmp_path / "store", tmp_path / "recordings"
    with opened(store, root, recordings(root, "a", "b")) as manifest_writer:
        enter(manifest_writer, "a")
        enter(manifest_writer, "b")
        manifest_writer.close()
    with opened(store, root, recordings(root, "a")) as first:  # when it began, b had left
        found = recordings(root, "a", "b")
        (root / "b.mp4").write_text("another video")
        with opened(store, root, found) as second:
            enter(second, "b")
        assert list(first.close()) == ["a", "b"]
    assert list(read_manifest(store)["episodes"]) == ["a", "b"] and not (store / JOURNAL).exists()
