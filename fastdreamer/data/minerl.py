"""Read MineRL v3/v4 recordings, and ours, which have the same layout.

    ROOT/<EnvName>/v3_<player>_<mob>-<n>_<start>-<end>/{recording.mp4, rendered.npz, metadata.json}

The rules are those of MineRL's own loader (minerl.data.data_pipeline), with three differences: the number of leading
frames to skip comes from the frames that decode instead of metadata.json, which may be missing or wrong; too few
frames are an error instead of a shorter episode; and arrays are loaded without pickle.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdreamer.data.actions import SPACES, ActionSpace
from fastdreamer.data.decode import count_frames, decode_video
from fastdreamer.data.trajectory import Trajectory
from fastdreamer.errors import UserError

BLACKLIST = ("tempting_capers_shapeshifter-14",)  # its video does not belong to its actions, say the authors
VERSIONS = ("3", "4")
RECORDER = "fastdreamer"  # metadata's mark of our own recordings
_VERSION_PREFIX = re.compile(r"v[0-9]+_")


class DamagedRecording(UserError):
    """One episode that cannot be read; the message names it and the reason."""


@dataclass(frozen=True)
class Recording:
    """Where one episode lies. `env` is the folder above it, `name` its own (with the env where that is ambiguous)."""

    path: Path
    name: str
    env: str


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


def read_recording(recording: Recording, space: ActionSpace, frames: bool = True) -> Trajectory:
    """Read one episode, aligned by its video's end: the last frame is the last state, leading extra frames go.

    MineRL's terminal is on the last row, and its last frame is masked in `valid` (its loader replaces it by the frame
    before, so the pixels cannot be trusted). With our own recordings both come from the metadata and the game itself.
    With `frames` False only the video's packets are counted, no pixel is decoded, and `frames` is (t, 0, 0, 3).

    Raises:
        DamagedRecording: naming the episode and what is wrong with it.
    """
    arrays = _load_arrays(recording)
    metadata = _load_metadata(recording)
    actions = _actions(recording, space, arrays)
    rewards = np.asarray(arrays["reward"], np.float32)
    if not np.isfinite(rewards).all():
        raise _damaged(recording, "a reward is not finite")
    pixels = _aligned_frames(recording, len(rewards) + 1, frames)
    terminals = np.zeros(len(rewards), np.bool_)
    valid = np.ones(len(rewards) + 1, np.bool_)
    if metadata.get("recorder") == RECORDER:
        terminals[-1] = bool(metadata.get("terminated", False))
        digest = metadata.get("frames_sha256")
        if frames and digest is not None and hashlib.sha256(np.ascontiguousarray(pixels).data).hexdigest() != digest:
            raise _damaged(recording, "the decoded frames are not the recorded ones (SHA-256 differs)")
    else:
        terminals[-1] = True
        valid[-1] = False
    return Trajectory(recording.name, pixels, actions, rewards, terminals, valid, metadata)


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


def _damaged(recording: Recording, reason: object) -> DamagedRecording:
    return DamagedRecording(f"recording {recording.name}: {' '.join(str(reason).split())}")


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
    except (ValueError, OSError, EOFError, KeyError, AttributeError, zipfile.BadZipFile, zlib.error) as error:
        if "allow_pickle" in str(error):
            raise _damaged(recording, f"{path.name} holds pickled data ({key or 'no zip file'}), refused") from error
        raise _damaged(recording, f"{path.name} cannot be read ({error})") from error
    if "reward" not in arrays:
        raise _damaged(recording, f"{path.name} has no array `reward`")
    rewards = arrays["reward"]
    if rewards.ndim != 1 or not len(rewards) or rewards.dtype.kind not in "fiu":
        raise _damaged(recording, f"reward is {rewards.dtype} of shape {rewards.shape}; it must be numbers (rows,)")
    for key, array in arrays.items():
        rows = {"observation": len(rewards) + 1, "action": len(rewards)}.get(key.partition("$")[0])
        if rows is not None and (array.ndim == 0 or len(array) != rows):
            raise _damaged(recording, f"{key} has shape {array.shape}; {len(rewards)} rewards need {rows} rows")
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
        raise _damaged(recording, f"metadata.json is not JSON ({error})") from error
    if not isinstance(metadata, dict):
        raise _damaged(recording, "metadata.json is not an object")
    return metadata


def _actions(recording: Recording, space: ActionSpace, arrays: dict[str, NDArray[Any]]) -> NDArray[np.uint8]:
    try:
        return space.from_recording(arrays)
    except UserError as error:
        raise _damaged(recording, error) from error


def _aligned_frames(recording: Recording, needed: int, decode: bool) -> NDArray[np.uint8]:
    path = _file(recording, "recording.mp4")
    try:
        pixels = decode_video(path) if decode else np.zeros((count_frames(path), 0, 0, 3), np.uint8)
    except UserError as error:
        raise _damaged(recording, error) from error
    if len(pixels) < needed:
        raise _damaged(recording, f"{path.name} has {len(pixels)} frames, {needed - 1} rewards need {needed}")
    return pixels[len(pixels) - needed :]
