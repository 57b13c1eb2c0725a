"""The store's manifest while it is being made, shared with other processes: its journal, appended to under a lock."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fastdreamer.encoding.episode_locks import EpisodeLocks
from fastdreamer.errors import UserError
from fastdreamer.latents.changes import differences
from fastdreamer.latents.entries import HEIRLOOMS
from fastdreamer.latents.episode import Episode, check_episode, read_episode, write_episode
from fastdreamer.latents.journal import JOURNAL, Journal, settled
from fastdreamer.latents.manifest import FOLDER, MANIFEST, check_key, read_settled, write_manifest
from fastdreamer.latents.splits import natural_split
from fastdreamer.recordings.actions import action_space
from fastdreamer.recordings.identity import Content, content_of, place, settle, without_links
from fastdreamer.recordings.recording import Recording
from fastdreamer.shapes import LatentClock
from fastdreamer.system.advice import command
from fastdreamer.system.files import unwritable
from fastdreamer.system.leftovers import sweep
from fastdreamer.system.ranges import span

Entry = tuple[Episode, Mapping[str, Any]]  # an episode and its proof (`stream.Finished`)


class ManifestWriter:
    """Episodes that are in the store, and recordings that are set aside.

    Attributes:
        found: the recordings that the store is made from, by their names in it; each once.
        links: other names of recordings that were found more than once, with the one that counts.
        skipped: recordings that are set aside, with their reasons.
        left: episodes that the store had, and whose recordings are gone; known at the end.
        changes: how the episodes differ from those that it had, if it had any; known at the end.
    """

    def __init__(
        self, store: Path, locks: EpisodeLocks, root: Path, held_out: float, heirlooms: Mapping[str, Any] | None = None
    ) -> None:
        self.store, self.locks, self.root, self.held_out = store, locks, root, held_out
        self.found: dict[str, Recording] = {}
        self.links: dict[str, str] = {}
        self.skipped: dict[str, str] = {}
        self.left: list[str] = []
        self.changes = ""
        self._heirlooms = heirlooms or {}
        self._contents: dict[str, Content] = {}

    def open(self, header: Mapping[str, Any], found: Sequence[Recording]) -> None:
        """Go on with the store that is there.

        Raises:
            UserError: if it was made with another key.
        """
        with self.locks.manifest():
            self._start(header)
            self._news()
            if self._manifest["key"] != header["key"] and not self._entries and self.locks.is_alone():
                self._start(header, anew=True)
            check_key(self.store, self._manifest["key"], header["key"])
            known = self._manifest.get(HEIRLOOMS, {}) | self._entries
        self._manifest |= header
        key, space = header["key"], action_space(header["space"]["name"])
        self._kind = LatentClock(key["frames_per_latent"], key["window"]), space
        once, self.links = without_links(settle(found, known, self.root), self.root, known)
        self.found = {recording.name: recording for recording in once}
        self._gone = (known.keys() | self._manifest["skipped"].keys()) - self.found.keys()

    def current(self, recording: Recording) -> dict[str, Any] | None:
        """The store's entry of this recording, if it has it as it is now, in a file that is whole.

        Raises:
            DamagedRecording: if its files cannot be read.
        """
        name = recording.name
        self._contents[name] = content = content_of(recording)
        with self.locks.manifest():
            self._news()
            entry = self._entries.get(name)
        if entry is None:
            return None
        is_same = entry["source_sha256"] == content.source
        if not is_same and "path" not in entry:
            is_same = entry["source_sha256"] == content_of(recording, is_old=True).source
        if not is_same or not self._is_whole(name, entry):
            return None
        noted = entry | self._origin(recording)
        if noted != entry:
            with self.locks.manifest():
                self._append({"name": name, "entry": noted})
        return noted

    def enter(self, entry: Entry) -> None:
        """Write an episode and enter it; the proof is what its entry says besides."""
        episode, proof = entry
        recording = self.found[episode.name]
        with span("write"):
            origin = self._origin(recording)
            written = write_episode(self.store, episode, origin["source_sha256"]) | dict(proof) | origin
        written["split"] = natural_split(episode.name, self.held_out)
        with self.locks.manifest():
            self._append({"name": episode.name, "entry": written, "env": recording.env})
        self.locks.give_back(episode.name)

    def set_aside(self, recording: Recording, reason: str) -> None:
        """Enter a damaged recording with the reason; what the store had of it leaves."""
        self.skipped[recording.name] = reason
        with self.locks.manifest():
            self._append({"name": recording.name, "reason": reason})
        self.locks.give_back(recording.name)

    def check_damage(self, most: float) -> None:
        """Stop when more than that share of the recordings is damaged.

        Raises:
            UserError: if so; the message has the first reason and the way out.
        """
        damaged, total = len(self.skipped), len(self.found)
        if damaged > most * total:
            reason = next(iter(self.skipped.values()))
            raise UserError(
                f"{damaged} of {total} recordings are damaged, more than data.max_damaged={most:g}; the first: "
                f"{reason}; all are listed by: {command('inspect')}; mend them, or raise data.max_damaged"
            )

    def close(self) -> dict[str, Any]:
        """Return all entries; the last of the processes settles them and deletes what belongs to no recording."""
        with self.locks.manifest(), self.locks.leave() as is_last:
            self._news()
            manifest = settled(self._manifest, self._journal.lines, self._gone if is_last else ())
            entries: dict[str, Any] = manifest["episodes"]
            self.skipped = manifest["skipped"]
            if is_last and entries:
                known = self._manifest["episodes"].keys() | manifest.pop(HEIRLOOMS, {}).keys()
                self.left = sorted(known - entries.keys() - self.skipped.keys())
                if had := self._before["episodes"]:
                    self.changes = differences(had, entries)
                if manifest != self._before:
                    write_manifest(self.store, manifest)
                self._sweep({entry["file"] for entry in entries.values()})
        return entries

    def _start(self, header: Mapping[str, Any], anew: bool = False) -> None:
        if anew or not (self.store / MANIFEST).exists():
            empty: dict[str, Any] = {"tasks": [], "episodes": {}, "skipped": {}}
            content = {**header, **empty, "held_out": self.held_out, **self._heirlooms}
            if content["held_out"] is None:  # the store that it replaces does not say what its splits follow
                del content["held_out"]
            write_manifest(self.store, content, only_new=not anew)
        self._before, base = read_settled(self.store)
        self._manifest = {"tasks": [], "skipped": {}} | self._before
        self._journal = Journal(self.store, base)
        self._entries: dict[str, dict[str, Any]] = dict(self._manifest["episodes"])

    def _news(self) -> None:
        """Take in what other processes have entered since."""
        for line in self._journal.news():
            self._take(line)

    def _append(self, line: Mapping[str, Any]) -> None:
        self._news()
        try:
            others = self._journal.append(line)
        except OSError as error:
            raise unwritable(self.store / JOURNAL, error) from error
        for found in (*others, line):
            self._take(found)

    def _take(self, line: Mapping[str, Any]) -> None:
        if "reason" in line:
            self._entries.pop(line["name"], None)
        else:
            self._entries[line["name"]] = dict(line["entry"])

    def _is_whole(self, name: str, entry: Mapping[str, Any]) -> bool:
        try:
            check_episode(self.store, read_episode(self.store, name, entry), *self._kind)
        except UserError:
            return False
        return True

    def _origin(self, recording: Recording) -> dict[str, str]:
        """What an entry says of its recording."""
        content = self._contents[recording.name]
        where = place(recording, self.root)
        return {"source_sha256": content.source, "video_sha256": content.video, "path": where}

    def _sweep(self, current: set[str]) -> None:
        """Delete what is settled, what no entry names, and what killed processes left."""
        (self.store / JOURNAL).unlink(missing_ok=True)
        for file in (self.store / FOLDER).iterdir():
            if file.name not in current:
                file.unlink()
        sweep(self.store)
