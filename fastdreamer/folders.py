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
    except RuntimeError as error:
        user = str(text).partition("/")[0]
        who = "this account has no home directory" if user == "~" else f"there is no user {user[1:]!r}"
        raise UserError(f"{text} cannot be found: {who}; write the whole path, from / on") from error
