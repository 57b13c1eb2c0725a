"""What a command is, how its words are read, and the configuration that it works with.

Nothing heavy is imported here, and what reads settings where that is done: help needs none of it.
"""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from fastdreamer.errors import UserError
from fastdreamer.system.files import expanded


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


if TYPE_CHECKING:
    from fastdreamer.config import Config

DEFAULT_PRESET = "crafter"


def resolve(arguments: Namespace) -> Config:
    """The configuration: --config, else the run's own, else the default preset where no run is named."""
    from fastdreamer.config import load_config
    from fastdreamer.system.files import anchored

    return anchored(load_config(config_name(arguments), arguments.overrides))


def resolve_for_run(arguments: Namespace) -> Config:
    """Resolve as `resolve` does, for a command that goes on with a run: held against the run's own, and announced.

    Raises:
        UserError: if a setting differs that a run keeps.
    """
    from fastdreamer.run.kept_config import check_run

    config = resolve(arguments)
    check_run(arguments.run_dir, config)
    announce(config)
    return config


def config_name(arguments: Namespace) -> str:
    """The preset or file that `resolve` reads."""
    from fastdreamer.run.kept_config import run_config

    run_dir = getattr(arguments, "run_dir", None)
    name = arguments.config
    if name is None and run_dir is not None:
        name = str(run_config(run_dir))
    return name or DEFAULT_PRESET


def announce(config: Config) -> None:
    """Print the one choice of device and precision, and which configuration this is."""
    from fastdreamer.device import choose_device, use_spare_cores
    from fastdreamer.settings import config_hash

    use_spare_cores()
    print(f"device: {choose_device(config)}; configuration {config_hash(config)}", flush=True)
