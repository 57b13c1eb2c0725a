"""The store's manifest while it is being made, shared with other processes: read, changed and replaced under a lock."""

from __future__ import annotations

import glob
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastdreamer.advice import command
from fastdreamer.data.claims import Claims
from fastdreamer.data.latents import (
    FOLDER,
    MANIFEST,
    Episode,
    check_key,
    read_manifest,
    write_episode,
    write_manifest,
)
from fastdreamer.data.recording import Recording
from fastdreamer.data.splits import assign_splits
from fastdreamer.errors import UserError
from fastdreamer.files import sha256_file
from fastdreamer.ranges import span

Entry = tuple[Episode, Mapping[str, Any]]  # an episode and its proof (`stream.Finished`)


class Ledger:
    """Episodes that are in the store, and recordings that are set aside.

    Attributes:
        found: the recordings that the store is made from, by name.
        skipped: those set aside, with their reasons.
    """

    def __init__(self, store: Path, claims: Claims, found: Mapping[str, Recording], held_out: float) -> None:
        self.store, self.claims, self.found, self.held_out = store, claims, found, held_out
        self.tasks = sorted({recording.env for recording in found.values()})  # a task is the folder it lies in
        self._sources: dict[str, str] = {}
        self.skipped: dict[str, str] = {}
        self._header: dict[str, Any] = {}

    def open(self, header: dict[str, Any]) -> None:
        """Go on with the store that is there.

        Raises:
            UserError: if it was made with another key.
        """
        self._header = header
        with self.claims.manifest():
            manifest = self._read()
            if manifest["episodes"]:
                check_key(self.store, manifest["key"], header["key"])

    def current(self, recording: Recording) -> dict[str, Any] | None:
        """The store's entry of this recording, if it has it as it is now, in a file that is whole."""
        self._sources[recording.name] = source = source_hash(recording)
        with self.claims.manifest():
            entry: dict[str, Any] | None = self._read()["episodes"].get(recording.name)
        if not entry or entry["source_sha256"] != source:
            return None
        file = self.store / FOLDER / entry["file"]
        return entry if file.is_file() and sha256_file(file) == entry["sha256"] else None

    def enter(self, entry: Entry) -> None:
        """Write an episode and enter it; the proof is what its entry says besides."""
        episode, proof = entry
        name = episode.name
        with span("write"):
            written = write_episode(self.store, episode, self._sources.pop(name)) | dict(proof)
        with self.claims.manifest():
            manifest = self._read()
            manifest["episodes"][name] = written
            manifest["skipped"].pop(name, None)
            self._replace(manifest)
        self.claims.give_back(name)

    def set_aside(self, recording: Recording, reason: str) -> None:
        """Enter a damaged recording with the reason; what the store had of it leaves."""
        self.skipped[recording.name] = reason
        with self.claims.manifest():
            manifest = self._read()
            manifest["skipped"][recording.name] = reason
            manifest["episodes"].pop(recording.name, None)
            self._replace(manifest)
        self.claims.give_back(recording.name)

    def check_damage(self, most: float) -> None:
        """Stop when more than that share of the recordings is damaged.

        Raises:
            UserError: with the first reason and the way out.
        """
        damaged, total = len(self.skipped), len(self.found)
        if damaged > most * total:
            reason = next(iter(self.skipped.values()))
            raise UserError(
                f"{damaged} of {total} recordings are damaged, more than data.max_damaged={most:g}; the first: "
                f"{reason}; all are listed by: {command('inspect')}; mend them, or raise data.max_damaged"
            )

    def close(self) -> dict[str, Any]:
        """All entries; the last of the processes deletes what belongs to no recording."""
        with self.claims.manifest(), self.claims.leave() as is_last:
            manifest = self._read()
            if is_last:
                manifest["episodes"] = {n: e for n, e in manifest["episodes"].items() if n in self.found}
                manifest["skipped"] = {n: r for n, r in manifest["skipped"].items() if n in self.found}
            self.skipped = manifest["skipped"]
            if is_last and manifest["episodes"]:
                self._replace(manifest)
                current = {entry["file"] for entry in manifest["episodes"].values()}
                for file in (self.store / FOLDER).iterdir():
                    if file.name not in current:
                        file.unlink()
        return dict(sorted(manifest["episodes"].items()))

    def _read(self) -> dict[str, Any]:
        if not (self.store / MANIFEST).exists():
            return {**self._header, "tasks": self.tasks, "episodes": {}, "skipped": {}}
        return read_manifest(self.store)

    def _replace(self, manifest: dict[str, Any]) -> None:
        entries = manifest["episodes"]
        splits = assign_splits(entries, self.held_out)
        for name, entry in entries.items():
            entry["split"] = splits[name]
            if name in self.found:
                entry["task"] = self.tasks.index(self.found[name].env)
        ordered = {"tasks": self.tasks, "episodes": dict(sorted(entries.items()))}
        write_manifest(self.store, {**manifest, **self._header, **ordered})


def source_hash(recording: Recording) -> str:
    """SHA-256 over names and contents of a recording's files."""
    path = recording.path
    near = path.iterdir() if path.is_dir() else path.parent.glob(f"{glob.escape(path.stem)}.*")
    files = sorted(p for p in near if p.suffix in (".mp4", ".npz", ".json", ".jsonl", path.suffix) and p.is_file())
    return hashlib.sha256("|".join(f"{p.name}:{sha256_file(p)}" for p in files).encode()).hexdigest()
