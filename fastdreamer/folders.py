"""Folders as people write them: `~` is a home directory, wherever it stands."""

from __future__ import annotations

from pathlib import Path

from fastdreamer.errors import UserError


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


def near(text: str, beside: Path, setting: str) -> str:
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
