"""What helps where a store cannot be read, for error messages: commands that keep whatever is whole."""

from __future__ import annotations

import shlex
from pathlib import Path


def make(path: Path) -> str:
    """The command that encodes into a store."""
    return shlex.join(["fastdreamer", "encode", "--store", str(path)])


def rebuild(path: Path) -> str:
    """How to make a store anew, beside the one that is there."""
    return f"rebuild it with: {make(path.with_name(f'{path.name}-2'))}"


def mend(path: Path) -> str:
    """How to encode again what a store has lost."""
    return f"encode again what is not whole with: {make(path)}"
