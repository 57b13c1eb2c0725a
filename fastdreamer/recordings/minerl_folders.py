"""MineRL's folders and those of its layout, told by their names and by what lies in them.

    ROOT/<EnvName>/v3_<player>_<mob>-<n>_<start>-<end>/{recording.mp4, rendered.npz, metadata.json}

A folder counts with any .mp4, any .npz and a version in its path, as for MineRL's own loader.
"""

from __future__ import annotations

import os
import re
import zipfile
from pathlib import Path

from fastdreamer.errors import UserError
from fastdreamer.system.json_files import regular_bytes

BLACKLIST = ("tempting_capers_shapeshifter-14",)  # its video does not belong to its actions, say the authors
VERSIONS = ("3", "4")
_SHOWN = 80  # characters of a version that is none of these: the file may be anything
_VERSION_PREFIX = re.compile(r"v[0-9]+_")
_FOLDER = re.compile(r"v[0-9]+_(?P<stream>.+-[0-9]+)_[0-9]+-[0-9]+")


def check_version(root: Path) -> None:
    """Raises UserError if `root` says in VERSION that its recordings are of another format."""
    file = root / "VERSION"
    try:
        version = regular_bytes(file).decode(errors="replace").strip() if file.is_file() else VERSIONS[0]
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: {error}") from error
    if version not in VERSIONS:
        raise UserError(f"{file} says {version[:_SHOWN]!r}; readable versions are {' and '.join(VERSIONS)}")


def claims(path: Path, names: list[str]) -> bool:
    """Whether a folder with these files is MineRL's, whole or not: by its name, or by what lies in it."""
    if _FOLDER.fullmatch(path.name):
        return True
    if _VERSION_PREFIX.match(path.name) and {"recording.mp4", "rendered.npz"} & set(names):
        return True
    return _has(names, ".mp4") and any(_holds_actions(path / name) for name in names if name.endswith(".npz"))


def _holds_actions(path: Path) -> bool:
    """Whether an npz has a recording's arrays; where it cannot be read, whether it is called as theirs are."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.startswith("action$") for name in archive.namelist())
    except Exception:  # one flipped bit makes zipfile raise any of a dozen kinds
        return path.name == "rendered.npz"


def refusal(path: Path, names: list[str]) -> str:
    """Why a folder that MineRL claims does not count as a recording, or ""."""
    named = _FOLDER.fullmatch(path.name)
    if named and named["stream"] in BLACKLIST:
        return "black-listed by MineRL: its frames and actions do not belong together"
    missing = " and ".join(ending for ending in (".mp4", ".npz") if not _has(names, ending))
    if missing:
        return f"there is no {missing} file in {path}"
    if not _VERSION_PREFIX.search(os.path.abspath(path)):
        return f"there is no version such as v3_ in {path}; MineRL's folders are v3_<player>_<mob>-<n>_<start>-<end>"
    return ""


def _has(names: list[str], ending: str) -> bool:
    return any(name.endswith(ending) for name in names)
