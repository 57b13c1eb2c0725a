"""What helps where a store cannot be read, for error messages: commands that keep whatever is whole."""

from __future__ import annotations

from pathlib import Path

from fastdreamer.system.advice import command, is_run_known


def make(path: Path, **flags: object) -> str:
    """The command that encodes into a store; a run's configuration knows where it lies."""
    return command("encode", **flags) if is_run_known() else command("encode", **{"store": path} | flags)


def rebuild(path: Path) -> str:
    """How to make a store anew; the old one stays until the new one is whole."""
    return f"rebuild it with: {make(path, replace=True)}"


def mend(path: Path) -> str:
    """How to encode again what a store has lost."""
    return f"encode again what is not whole with: {make(path)}"
