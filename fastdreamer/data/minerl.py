"""Read MineRL v3/v4 recordings, and ours, which have the same layout.

    ROOT/<EnvName>/v3_<player>_<mob>-<n>_<start>-<end>/{recording.mp4, rendered.npz, metadata.json}

The rules are those of MineRL's own loader (minerl.data.data_pipeline), with three differences: the number of leading
frames to skip comes from the frames that decode instead of metadata.json, which may be missing or wrong; too few
frames are an error instead of a shorter episode; and arrays are loaded without pickle.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdreamer.data.actions import SPACES, ActionSpace
from fastdreamer.data.recording import Aligned, Recording
from fastdreamer.data.trajectory import Trajectory
from fastdreamer.errors import UserError

BLACKLIST = ("tempting_capers_shapeshifter-14",)  # its video does not belong to its actions, say the authors
VERSIONS = ("3", "4")
RECORDER = "fastdreamer"  # metadata's mark of our own recordings
_VERSION_PREFIX = re.compile(r"v[0-9]+_")


def find_recordings(root: Path) -> list[Recording]:
    """All recordings under `root`, sorted by env and name: folders with any .mp4, any .npz and a version in the path.

    Raises:
        UserError: if the folder is missing, holds no recording, or says in VERSION that it is of another format.
    """
    root = Path(root)
    if not root.is_dir():
        raise UserError(f"there is no folder {root}; make one with `fastdreamer record`, or give MineRL's root folder")
    file = root / "VERSION"
    version = file.read_text(errors="replace").strip() if file.is_file() else VERSIONS[0]
    if version not in VERSIONS:
        raise UserError(f"{file} says {version!r}; readable versions are {' and '.join(VERSIONS)}")
    folders = [path for path, names in _walk(root) if _has(names, ".mp4") and _has(names, ".npz")]
    if not folders:
        raise UserError(
            f"{root} holds no recording: expected folders like <EnvName>/v3_<player>_<mob>-<n>_<start>-<end>/ "
            "with recording.mp4 and rendered.npz"
        )
    times = Counter(path.name for path in folders)
    return [
        Recording(path, path.name if times[path.name] == 1 else f"{path.parent.name}.{path.name}", path.parent.name)
        for path in sorted(folders)
    ]


def find_incomplete(root: Path) -> list[tuple[str, str]]:
    """Name and reason of the folders that are named like a recording but do not count as one, black-listed included."""
    incomplete = []
    for path, names in _walk(Path(root), blacklisted=True):
        missing = " and ".join(ending for ending in (".mp4", ".npz") if not _has(names, ending))
        if _is_blacklisted(path):
            incomplete.append((path.name, "black-listed by MineRL: its frames and actions do not belong together"))
        elif missing and _VERSION_PREFIX.match(path.name):
            incomplete.append((path.name, f"there is no {missing} file in {path}"))
    return sorted(incomplete)


def guess_space(recording: Recording) -> ActionSpace:
    """The smallest action space that reads the recording.

    Raises:
        DamagedRecording: if none does; the reason is that of the space whose components fit best.
    """
    arrays = _load_arrays(recording)
    keys = {key for key in arrays if key.startswith("action$")}
    best = min(SPACES.values(), key=lambda space: len(keys ^ {component.key for component in space.components}))
    _actions(recording, best, arrays)
    return best


@dataclass(frozen=True)
class MineRLLabels:
    """The arrays of one recording, checked; its video is aligned by its end."""

    recording: Recording
    video: Path
    actions: NDArray[np.uint8]
    rewards: NDArray[np.float32]
    metadata: dict[str, Any]

    def align(self, visible: int) -> Aligned:
        """The last frame is the last state; leading extra frames go.

        MineRL's terminal is on the last row, and its last frame is masked in `valid` (its loader replaces it by the
        frame before, so the pixels cannot be trusted). With our own recordings both come from the metadata and the
        game itself.

        Raises:
            DamagedRecording: if there are too few frames.
        """
        needed = len(self.rewards) + 1
        if visible < needed:
            raise self.recording.damaged(f"{self.video.name} has {visible} frames, {needed - 1} rewards need {needed}")
        terminals = np.zeros(needed - 1, np.bool_)
        valid = np.ones(needed, np.bool_)
        digest = None
        if self.metadata.get("recorder") == RECORDER:
            terminals[-1] = bool(self.metadata.get("terminated", False))
            digest = self.metadata.get("frames_sha256")
        else:
            terminals[-1] = True
            valid[-1] = False
        frames = np.zeros((needed, 0, 0, 3), np.uint8)
        trajectory = Trajectory(
            self.recording.name, frames, self.actions, self.rewards, terminals, valid, self.metadata
        )
        return Aligned(trajectory, np.arange(visible - needed, visible), digest)


def read_labels(recording: Recording, space: ActionSpace) -> MineRLLabels:
    """Read one recording's arrays.

    Raises:
        DamagedRecording: naming the episode and what is wrong with it.
    """
    arrays = _load_arrays(recording)
    metadata = _load_metadata(recording)
    actions = _actions(recording, space, arrays)
    rewards = np.asarray(arrays["reward"], np.float32)
    if not np.isfinite(rewards).all():
        raise recording.damaged("a reward is not finite")
    return MineRLLabels(recording, _file(recording, "recording.mp4"), actions, rewards, metadata)


def _walk(root: Path, blacklisted: bool = False) -> Iterator[tuple[Path, list[str]]]:
    """Folders under `root` (itself included) with a version in their path; hidden ones are half-written recordings."""
    for path, folders, names in os.walk(root, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        is_versioned = _VERSION_PREFIX.search(os.path.abspath(path))
        if is_versioned and (blacklisted or not _is_blacklisted(Path(path))):
            yield Path(path), names


def _is_blacklisted(path: Path) -> bool:
    return any(stream in str(path) for stream in BLACKLIST)


def _has(names: list[str], ending: str) -> bool:
    return any(name.endswith(ending) for name in names)


def _file(recording: Recording, usual: str) -> Path:
    """The recording's file of that name, or else the first with the same ending."""
    path = recording.path / usual
    others = sorted(recording.path.glob(f"*{path.suffix}"))
    return path if path.exists() or not others else others[0]


def _load_arrays(recording: Recording) -> dict[str, NDArray[Any]]:
    """All arrays of the npz, with their lengths checked: t observations, t - 1 actions and rewards."""
    path = _file(recording, "rendered.npz")
    key = ""
    arrays: dict[str, NDArray[Any]] = {}
    try:
        with np.load(path, allow_pickle=False) as archive:
            for key in archive.files:
                arrays[canonical_key(key)] = archive[key]
    except Exception as error:  # one flipped bit asks zipfile for encryption, other compressions or much memory
        if "allow_pickle" in str(error):
            raise recording.damaged(f"{path.name} holds pickled data ({key or 'no zip file'}), refused") from error
        raise recording.damaged(f"{path.name} cannot be read ({str(error)[:200]})") from error
    if "reward" not in arrays:
        raise recording.damaged(f"{path.name} has no array `reward`")
    rewards = arrays["reward"]
    if rewards.ndim != 1 or not len(rewards) or rewards.dtype.kind not in "fiu":
        raise recording.damaged(f"reward is {rewards.dtype} of shape {rewards.shape}; it must be numbers (rows,)")
    for key, array in arrays.items():
        rows = {"observation": len(rewards) + 1, "action": len(rewards)}.get(key.partition("$")[0])
        if rows is not None and (array.ndim == 0 or len(array) != rows):
            raise recording.damaged(f"{key} has shape {array.shape}; {len(rewards)} rewards need {rows} rows")
    return arrays


def canonical_key(key: str) -> str:
    """An array's name in the v4 dialect: v3 has dots between levels, and `compassAngle` in one word."""
    return key.replace(".", "$").replace("compassAngle", "compass$angle")


def _load_metadata(recording: Recording) -> dict[str, Any]:
    path = recording.path / "metadata.json"
    if not path.is_file():
        return {}
    try:
        metadata = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise recording.damaged(f"metadata.json is not JSON ({error})") from error
    if not isinstance(metadata, dict):
        raise recording.damaged("metadata.json is not an object")
    return metadata


def _actions(recording: Recording, space: ActionSpace, arrays: dict[str, NDArray[Any]]) -> NDArray[np.uint8]:
    try:
        return space.from_recording(arrays)
    except UserError as error:
        raise recording.damaged(error) from error
