"""What a command is, and how folders and whole numbers are read from its words. Nothing heavy is imported here."""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

from fastdreamer.errors import UserError
from fastdreamer.system.folders import expanded


class Command(NamedTuple):
    """One command of the command line, as the file that is named after it declares it."""

    name: str
    summary: str
    call: Callable[[Namespace], dict[str, Any]]  # does the work, prints, and returns its numbers for --json
    arguments: Callable[[ArgumentParser], None] = lambda parser: None  # adds its own to those that all commands take
    run_dir: Literal["", "optional", "required"] = ""
    begins: bool = False  # may make the run directory
    holds: Literal["", "alone", "together", "ranks"] = ""  # writes in the run: its only process, beside its like, or
    # as the ranks of torchrun, of which the main one writes


def given(text: str) -> str:
    """A text that is not empty: the shell makes an empty one of a variable that is not set."""
    if not text.strip():
        raise ArgumentTypeError("nothing is given (is a variable of the shell not set?)")
    return text


def folder(text: str) -> Path:
    """A folder or file as it is named on the command line, where a shell left a `~` in it too.

    An empty name is refused: it would be the current folder, whose name is `.`.
    """
    try:
        return expanded(given(text))
    except UserError as error:
        raise ArgumentTypeError(str(error)) from None


def number(text: str) -> int:
    """A whole number that 64 bits hold."""
    value = int(text)
    if not -(2**63) <= value < 2**63:
        raise ArgumentTypeError(f"{text} is beyond 64 bits")
    return value


number.__name__ = "int"  # argparse names it where a word is no number
