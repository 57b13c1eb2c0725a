"""Folders as people write them: `~` is a home directory, wherever it stands."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

from fastdreamer.errors import UserError

FOLDERS = {"data": ("recordings", "store"), "tokenizer": ("weights",), "engines": ("directory",)}
"""The settings that name a folder, by their section."""
NO_FOLDERS = ("", "embedded", "random")
Settings = TypeVar("Settings", bound=Any)


def expanded(text: str | Path) -> Path:
    """A path with its `~` or `~user` put in.

    Raises:
        UserError: if there is no such user, or the account has no home directory.
    """
    try:
        return Path(text).expanduser()
    except (RuntimeError, KeyError) as error:
        user = str(text).partition("/")[0]
        who = "this account has no home directory" if user == "~" else f"there is no user {user[1:]!r}"
        raise UserError(f"{text} cannot be found: {who}; write the whole path, from / on") from error


def whole(text: str) -> str:
    """The whole path of a folder that a setting names; what names none stays as it is.

    Raises:
        UserError: if a `~` names nobody, or this account has no home directory.
    """
    return text if text in NO_FOLDERS else str(expanded(text).absolute())


def find_beside(tree: dict[str, Any], beside: Path) -> None:
    """Folders that lie beside the file are meant, wherever the command runs."""
    for section, names in FOLDERS.items():
        for name in names if isinstance(tree.get(section), dict) else ():
            text = tree[section].get(name)
            if isinstance(text, str) and text not in NO_FOLDERS:
                tree[section][name] = _near(text, beside, f"{section}.{name}")


def anchored(config: Settings, weights: bool = False) -> Settings:
    """The same with whole paths, which mean the same from every folder.

    The weights are left as they are written unless they are asked for: engines are found by that name.

    Raises:
        UserError: if a `~` names nobody, or this account has no home directory.
    """
    from dataclasses import replace

    sections = {}
    for section, names in FOLDERS.items():
        settings = getattr(config, section)
        kept = {name: whole(getattr(settings, name)) for name in names if weights or name != "weights"}
        sections[section] = replace(settings, **kept)
    return replace(config, **sections)


def _near(text: str, beside: Path, setting: str) -> str:
    """A folder that a file names: the one beside the file where it is there, else as it is written.

    Raises:
        UserError: if there is another one of that name in the current folder.
    """
    path = expanded(text)
    own = beside.absolute() / path
    if path.is_absolute() or not own.exists() or (path.exists() and path.samefile(own)):
        return text
    if path.exists():
        raise UserError(
            f"{setting} is {text}, which is both {own} and {path.absolute()}: write the whole path of the one you mean"
        )
    return str(own)
