"""The journal of a store that is being made: flat in the number of episodes, whole after a kill, and then gone."""

from __future__ import annotations

import json
import os
import random
import shutil
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from encoding.test_encode import CONFIG, _record, _trajectory
from encoding.test_growth import clips

from fastdreamer.encoding import manifest_writer as writer_module
from fastdreamer.encoding.episode_locks import EpisodeLocks
from fastdreamer.encoding.manifest_writer import ManifestWriter
from fastdreamer.encoding.pipeline import encode_recordings
from fastdreamer.errors import UserError
from fastdreamer.latents.episode import Episode
from fastdreamer.latents.journal import JOURNAL
from fastdreamer.latents.manifest import FORMAT, described, write_manifest
from fastdreamer.latents.store import LatentStore, read_manifest
from fastdreamer.recordings.actions import action_space
from fastdreamer.recordings.identity import content_of
from fastdreamer.recordings.recording import Recording

KEY = {"tokenizer": "t", "frames_per_latent": 1, "window": 1}
HEADER = {"format": FORMAT, "key": KEY, **described(action_space("crafter"))}


def episode(name: str) -> Episode:
    zeros = torch.zeros(1)
    shape = torch.zeros(2, 16, 16, dtype=torch.float16)
    return Episode(name, "train", shape, zeros.byte()[:, None], zeros, zeros.bool(), torch.ones(2, dtype=torch.bool))


def recordings(root: Path, *names: str) -> list[Recording]:
    """Files that stand for videos."""
    root.mkdir(parents=True, exist_ok=True)
    for name in names:
        (root / f"{name}.mp4").write_text(name)
    return [Recording(root / f"{name}.mp4", name, "env", "video") for name in names]


@contextmanager
def opened(store: Path, root: Path, found: list[Recording]) -> Iterator[ManifestWriter]:
    with EpisodeLocks(store) as claims:
        manifest_writer = ManifestWriter(store, claims, root, 0.1)
        manifest_writer.open(HEADER, found)
        yield manifest_writer


def enter(manifest_writer: ManifestWriter, name: str) -> None:
    assert manifest_writer.current(manifest_writer.found[name]) is None
    manifest_writer.enter((episode(name), {}))


def test_the_cost_of_an_episode_is_that_of_one_episode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes that are read and written, files that are opened, synced and renamed, and folders that are listed.

    Also beside thousands of files in one folder.
    """
    root, costs = tmp_path / "recordings", {}
    for count in (10, 3000):
        store = tmp_path / f"{count}"
        old = recordings(root, *(f"old-{i}" for i in range(count)))
        entry = {"file": "x", "sha256": "0", "source_sha256": "0", "frames": 2, "steps": 2, "split": "train"}
        episodes = {r.name: entry | {"labelled": True, "path": r.path.name} for r in old}
        store.mkdir()
        write_manifest(store, {**HEADER, "tasks": ["env"], "episodes": episodes, "skipped": {}})
        new = recordings(root, *(f"new-{i}" for i in range(6)))
        with opened(store, root, [*old, *new]) as manifest_writer:
            each = []
            for recording in new:
                with monkeypatch.context() as patch, counted(patch) as cost:
                    enter(manifest_writer, recording.name)
                each.append(cost)
        costs[count] = each
        assert len(read_manifest(store)["episodes"]) == count + 6
    first, *others = (cost for each in costs.values() for cost in each[1:])  # the very first one also imports
    read = [cost.pop("rchar") for cost in (first, *others)]
    assert all(cost == first for cost in others), costs
    assert max(read) - min(read) < 64, "digits of the accounts, which are read too"
    assert first["listed"] == 0 < first["synced"] < 5, first


@contextmanager
def counted(patch: pytest.MonkeyPatch) -> Iterator[Counter[str]]:
    """What the block asks of the system, by this thread's own accounts and by calls."""
    cost: Counter[str] = Counter()

    def noting(name: str, what: str) -> None:
        plain = getattr(os, name)
        patch.setattr(os, name, lambda *a, **k: cost.update([what]) or plain(*a, **k))

    for name, what in {"fsync": "synced", "replace": "renamed", "listdir": "listed", "scandir": "listed"}.items():
        noting(name, what)
    hook = [True]
    sys.addaudithook(lambda event, _: cost.update(["opened"]) if hook[0] and event == "open" else None)
    before = transferred()
    yield cost
    hook[0] = False
    cost.update({name: value - before[name] for name, value in transferred().items()})


def transferred() -> dict[str, int]:
    """Bytes that this thread has read and written so far."""
    lines = (line.split(": ") for line in Path("/proc/thread-self/io").read_text().splitlines())
    return {name: int(value) for name, value in lines if name in ("rchar", "wchar")}


def test_what_a_killed_process_had_begun_to_write_is_not_read(tmp_path: Path) -> None:
    store, root = tmp_path / "store", tmp_path / "recordings"
    found = recordings(root, "a", "b", "c")
    with opened(store, root, found) as manifest_writer:
        enter(manifest_writer, "a")
        enter(manifest_writer, "b")
    whole = (store / JOURNAL).read_bytes()
    first = whole.index(b"\n") + 1
    for length in range(first, len(whole)):
        (store / JOURNAL).write_bytes(whole[:length])
        assert list(read_manifest(store)["episodes"]) == ["a"], length
    with opened(store, root, found) as manifest_writer:
        assert manifest_writer.current(manifest_writer.found["a"]) is not None
        enter(manifest_writer, "b")
        assert (store / JOURNAL).read_bytes().count(b"\n") == 2
        assert list(read_manifest(store)["episodes"]) == ["a", "b"]
        enter(manifest_writer, "c")
        assert list(manifest_writer.close()) == ["a", "b", "c"]
    assert not (store / JOURNAL).exists() and len(LatentStore.open(store).episodes) == 3


def test_every_changed_byte_of_the_journal_is_refused_or_says_the_same(tmp_path: Path) -> None:
    """`encode` then goes on with what of the journal is whole."""
    store, root = tmp_path / "store", tmp_path / "recordings"
    found = recordings(root, "a", "b")
    with opened(store, root, found) as manifest_writer:
        for name in ("a", "b"):
            enter(manifest_writer, name)
    data, known = (store / JOURNAL).read_bytes(), read_manifest(store)
    random.seed(0)
    for place in range(len(data) - 1):  # the last byte ends the line: without it the line is not whole
        changed = data[:place] + bytes([data[place] ^ 1 << random.randrange(8)]) + data[place + 1 :]
        (store / JOURNAL).write_bytes(changed)
        try:
            assert read_manifest(store) == known
        except UserError as error:
            assert "journal" in str(error) and "\n" not in str(error)
    (store / JOURNAL).write_bytes(data.replace(b'"b"', b'"x"'))
    with opened(store, root, found) as manifest_writer:
        assert manifest_writer.current(manifest_writer.found["a"]) is not None
        enter(manifest_writer, "b")
        manifest_writer.close()
    assert read_manifest(store)["episodes"] == known["episodes"]


def test_a_journal_that_was_settled_already_says_nothing_more(tmp_path: Path) -> None:
    """Killed between the new manifest and the end of the journal."""
    store, root = tmp_path / "store", tmp_path / "recordings"
    found = recordings(root, "a", "b", "c")
    with opened(store, root, found) as manifest_writer:
        for name in ("a", "b", "c"):
            enter(manifest_writer, name)
        kept = (store / JOURNAL).read_bytes()
        manifest_writer.close()
    settled = (store / "manifest.json").read_bytes()
    (store / JOURNAL).write_bytes(kept)
    known = read_manifest(store)
    (root / "c.mp4").unlink()
    with opened(store, root, found[:2]) as manifest_writer:
        assert not [r for r in manifest_writer.found.values() if manifest_writer.current(r) is None]
        manifest_writer.close()
    assert read_manifest(store)["episodes"].keys() == known["episodes"].keys() - {"c"}
    assert (store / "manifest.json").read_bytes() != settled and not (store / JOURNAL).exists()


def test_what_has_left_leaves_with_the_last_process(tmp_path: Path) -> None:
    store, root = tmp_path / "store", tmp_path / "recordings"
    with opened(store, root, recordings(root, "a", "b")) as manifest_writer:
        enter(manifest_writer, "a")
        enter(manifest_writer, "b")
        manifest_writer.close()
    with opened(store, root, recordings(root, "a")) as alone:
        assert list(alone.close()) == ["a"]


def test_a_stopped_run_that_goes_on_leaves_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The forced pick waits for the last of the episodes, however often the run is stopped; and no litter stays."""
    root = _record(tmp_path / "recordings", *range(4))
    encode_recordings(CONFIG, root, tmp_path / "whole")
    plain = ManifestWriter.enter
    store = tmp_path / "store"
    for _ in range(4):
        calls: list[str] = []

        def once(self: ManifestWriter, entry: writer_module.Entry, calls: list[str] = calls) -> None:
            if calls:
                raise KeyboardInterrupt
            calls.append(entry[0].name)
            plain(self, entry)

        with monkeypatch.context() as patch:
            patch.setattr(ManifestWriter, "enter", once)
            try:
                encode_recordings(CONFIG, root, store)
            except KeyboardInterrupt:
                (store / ".manifest.json.tmp-1").write_text("left by a kill")
                (store / "episodes" / ".x.safetensors.tmp-1").write_text("left by a kill")
    encode_recordings(CONFIG, root, store)
    files = sorted(p.relative_to(store) for p in store.rglob("*"))
    assert files == sorted(p.relative_to(tmp_path / "whole") for p in (tmp_path / "whole").rglob("*"))
    assert all(
        (store / f).read_bytes() == (tmp_path / "whole" / f).read_bytes() for f in files if (store / f).is_file()
    )


def test_a_full_disk_is_said_to_be_the_stores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, root = tmp_path / "store", tmp_path / "recordings"
    found = recordings(root, "a", "b")
    with opened(store, root, found) as manifest_writer:
        enter(manifest_writer, "a")
        before = (store / JOURNAL).read_bytes()

        def full(handle: int) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("fastdreamer.latents.journal.os.fsync", full)
        with pytest.raises(UserError, match=r"journal.jsonl.*(No space left|the disk is full)"):
            manifest_writer._append({"name": "b", "reason": "x"})
        assert (store / JOURNAL).read_bytes() == before


def test_opening_reads_the_manifest_once_and_settling_writes_it_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = _record(tmp_path / "recordings", 0, 1, 2)
    written: list[int] = []
    plain = writer_module.write_manifest

    def noted(path: Path, manifest: dict[str, Any], **how: bool) -> None:
        written.append(len(manifest["episodes"]))
        plain(path, manifest, **how)

    monkeypatch.setattr(writer_module, "write_manifest", noted)
    encode_recordings(CONFIG, root, tmp_path / "store")
    assert written == [0, 3]
    encode_recordings(CONFIG, root, tmp_path / "store")
    assert written == [0, 3]
    shutil.rmtree(root / "Crafter-test" / _trajectory(2).name)
    encode_recordings(CONFIG, root, tmp_path / "store")
    assert written == [0, 3, 2]


def test_a_recording_is_read_without_listing_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clips(tmp_path, 2)
    found = Recording(tmp_path / "ep0.mp4", "ep0", "env", "video")
    before = content_of(found)
    (tmp_path / "ep0.1.json").write_text("of another recording")
    monkeypatch.setattr(Path, "iterdir", lambda self: pytest.fail("lists"))
    monkeypatch.setattr(Path, "glob", lambda self, pattern: pytest.fail("lists"))
    assert content_of(found) == before
    (tmp_path / "ep0.json").write_text(json.dumps({}))
    assert content_of(found).source != before.source and content_of(found).video == before.video
