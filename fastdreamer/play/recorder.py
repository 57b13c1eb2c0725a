"""What is played in the real environment, as recordings like those of `record`: each whole, or not at all.

Frames of the episode in hand lie in a file without a name, so that memory stays flat and a killed server leaves none
of them. A small journal beside the recordings says which episode was in hand.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import secrets
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Int, UInt8
from numpy import ndarray

from fastdreamer.errors import UserError
from fastdreamer.recordings.actions import action_space
from fastdreamer.recordings.counters import total_gain
from fastdreamer.recordings.trajectory import Trajectory
from fastdreamer.system.files import AlreadyThere, remove_directory, unwritable
from fastdreamer.system.json_files import read_loosely
from fastdreamer.system.leftovers import lock

FOLDER, POLICY = "Crafter-human", "human"
_NAME = re.compile(r"v3_.+_crafter-(\d{1,10})_0-\d+")
_JOURNAL = re.compile(r"\.playing-(\d{1,10})-[0-9a-f]{8}\.json")


def seeds_in(root: Path) -> set[int]:
    """The worlds that are recorded under a folder, or are being recorded there."""
    found = set[int]()
    for folder in (root, root / FOLDER):
        with suppress(OSError):
            names = os.listdir(folder)
            found |= {int(m[1]) for name in names for m in (_NAME.fullmatch(name), _JOURNAL.fullmatch(name)) if m}
    return found


def lost_episodes(root: Path) -> list[str]:
    """Lines that name the episodes whose server ended before they did; said once, for their journals go away."""
    lines = []
    for path in sorted(root.glob(".playing-*.json")):
        match = _JOURNAL.fullmatch(path.name)
        if match is None or path.is_symlink():
            continue
        with suppress(OSError), path.open("rb") as file:
            if not lock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB):
                continue  # its server is still there
            began = str((read_loosely(path) or {}).get("began", ""))
            when = f", begun {began}," if re.fullmatch(r"[\dT:+-]{10,40}", began) else ""
            path.unlink()
            lines.append(f"the episode in world {match[1]}{when} was lost: its server ended in the middle of it")
    return lines


class Recorder:
    """Records one episode after another into `root`/Crafter-human.

    Args:
        root: the folder of recordings.
        longest: the most actions of an episode, as the metadata say.

    Raises:
        UserError: if the folder cannot be written.
    """

    def __init__(self, root: Path, longest: int) -> None:
        self.root, self.longest = root, longest
        self._folder = root / FOLDER
        self._space = action_space("crafter")
        self._file: Any = None
        self._journal: Any = None
        self._written: Path | None = None
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot write recordings to {root} ({error.strerror}): choose another --record") from error
        if not os.access(self._folder, os.W_OK | os.X_OK):
            raise UserError(f"cannot write recordings to {root} (no permission): choose another --record")

    @property
    def name(self) -> str | None:
        """What the episode in hand will be called, as long as it stays as it is; None where none is recorded."""
        if self._file is None:
            return None
        return self._written.name if self._written is not None else f"v3_human_crafter-{self._seed}_0-{self.count}"

    @property
    def count(self) -> int:
        """Actions of the episode in hand."""
        return len(self._rewards) if self._file is not None else 0

    def begin(self, seed: int, frame: UInt8[ndarray, "h w 3"], counters: Mapping[str, int]) -> None:
        """Take an episode in hand, from its world's first frame.

        Raises:
            UserError: if the disk refuses.
        """
        assert self._file is None, "finish comes first"
        self._seed, self._shape = seed, frame.shape
        self._actions, self._rewards, self._players = list[Sequence[int]](), list[float](), list[str]()
        self._counted, self._names = [_row(counters)], tuple(counters)
        self._achieved: list[str] = []
        self._is_full, self._is_terminated, self._written = False, False, None
        path = self.root / f".playing-{seed}-{secrets.token_hex(4)}.json"
        try:
            self._journal = path.open("w", encoding="utf-8")
            lock(self._journal.fileno(), fcntl.LOCK_SH | fcntl.LOCK_NB)
            json.dump({"seed": seed, "began": datetime.now(UTC).isoformat(timespec="seconds")}, self._journal)
            self._journal.flush()
            self._file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115 -- it outlives this call
            self._put(frame)
        except OSError as error:
            self._drop()
            raise _refused(self._folder, error) from error

    def add(
        self,
        frames: UInt8[ndarray, "m h w 3"],
        actions: Int[ndarray, "m k"],
        rewards: Float32[ndarray, " m"],
        counters: Sequence[Mapping[str, int]],
        player: str,
    ) -> None:
        """Add what was played: an action a frame, by `player`.

        Raises:
            UserError: if the disk refuses; the episode in hand then ends before these actions.
        """
        if self._file is None or self._is_full or self._written is not None:
            return
        try:
            self._put(frames)
        except OSError as error:
            self._is_full = True
            self.cut(self.count)
            raise UserError(
                f"{_refused(self._folder, error)}; the episode's first {self.count} actions are kept, and written when "
                "another one begins"
            ) from error
        self._actions += [tuple(row) for row in actions.tolist()]
        self._rewards += [float(reward) for reward in rewards]
        self._counted += [_row(values) for values in counters]
        self._players += [player] * len(rewards)

    def cut(self, count: int) -> None:
        """Go back to the first `count` actions; what was written with more of them is withdrawn."""
        if self._file is None or count > self.count or (count == self.count and not self._is_full):
            return
        if self._written is not None:
            remove_directory(self._written)
        self._written, self._is_terminated = None, False
        for rows in (self._actions, self._rewards, self._players):
            del rows[count:]
        del self._counted[count + 1 :]
        size = (count + 1) * int(np.prod(self._shape))
        with suppress(OSError):  # it only becomes smaller
            self._file.truncate(size)
        self._file.seek(size)

    def write(self, terminated: bool, achievements: Sequence[str]) -> None:
        """Write the episode in hand, which is over; it stays in hand until `finish`, in case it is gone back on.

        Raises:
            UserError: if the disk refuses; the episode stays in hand and is tried again by `finish`.
        """
        if self._file is None or self._written is not None or not self.count:
            return
        self._is_terminated, self._achieved = terminated and not self._is_full, list(achievements)
        self._write()

    def finish(self, achievements: Sequence[str] = ()) -> None:
        """Let go of the episode in hand; where it is not written yet and has an action, it is, as one that was cut.

        Raises:
            UserError: if the disk refuses; the episode stays in hand.
        """
        if self._file is None:
            return
        if self._written is None and self.count:
            if not self._is_terminated:
                self._achieved = list(achievements)
            self._write()
        self._drop()

    def abandon(self) -> str | None:
        """Let go of the episode in hand whatever becomes of it; returns a line that says what was lost, if anything."""
        lost = self.name if self._file is not None and self._written is None and self.count else None
        self._drop()
        return None if lost is None else f"episode {lost} could not be written and is lost"

    def _write(self) -> None:
        from fastdreamer.recordings.writer import write_recording

        count = self.count
        try:
            self._file.flush()
            frames = np.memmap(self._file, np.uint8, "r", shape=(count + 1, *self._shape))
            counted = np.stack(self._counted)
            counters = {name: counted[:, column] for column, name in enumerate(self._names)}
            gains = {name: total_gain(values) for name, values in counters.items()}
            terminals = np.zeros(count, bool)
            terminals[-1] = self._is_terminated
            metadata = {
                "success": not self._is_terminated,
                "terminated": self._is_terminated,
                "truncated": not self._is_terminated,
                "seed": self._seed,
                "policy": POLICY,
                "noise": 0.0,
                "max_steps": self.longest,
                "players": dict(Counter(self._players)),
                "achievements": [*self._achieved],
                "gains": {name: gain for name, gain in gains.items() if gain},
            }
            for number in range(1, 10_000):
                player = POLICY if number == 1 else f"{POLICY}{number}"
                name = f"v3_{player}_crafter-{self._seed}_0-{count}"
                played = Trajectory(
                    name=name,
                    frames=frames,
                    actions=np.array(self._actions, np.uint8),
                    rewards=np.array(self._rewards, np.float32),
                    terminals=terminals,
                    valid=np.ones(count + 1, bool),
                    metadata=metadata,
                    counters=counters,
                )
                try:
                    write_recording(self._folder / name, played, self._space, metadata)
                except AlreadyThere:
                    continue
                self._written = self._folder / name
                return
            raise UserError(f"{self._folder} holds world {self._seed} too often: choose another world")
        except OSError as error:
            raise _refused(self._folder, error) from error

    def _put(self, frames: UInt8[ndarray, "*m h w 3"]) -> None:
        self._file.write(np.ascontiguousarray(frames).data)
        self._file.flush()

    def _drop(self) -> None:
        if self._journal is not None:
            with suppress(OSError):
                Path(self._journal.name).unlink(missing_ok=True)
            with suppress(OSError):
                self._journal.close()
        if self._file is not None:
            with suppress(OSError):
                self._file.close()
        self._file = self._journal = None


def _row(counters: Mapping[str, int]) -> Int[ndarray, " n"]:
    return np.fromiter(counters.values(), np.int32, len(counters))


def _refused(folder: Path, error: OSError) -> Exception:
    known = unwritable(folder, error)
    return known if isinstance(known, UserError) else UserError(f"cannot write {folder}: {error.strerror or error}")
