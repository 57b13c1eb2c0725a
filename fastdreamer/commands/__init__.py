"""The commands: a file each, with its arguments, its call and its printing.

A command's call settles the configuration, imports what does the work, and shows its numbers; importing this package is
cheap, so that help and mistakes are quick.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from fastdreamer.commands.command import Command
from fastdreamer.ranks.membership import join
from fastdreamer.ranks.torchrun import place
from fastdreamer.system.output import to_json

NAMES = (
    "demo", "study", "record", "inspect", "fit-tokenizer", "fetch-weights", "build-engines", "encode", "plan", "train",
    "profile", "diagnose", "doctor", "eval", "report", "pack", "play",
)  # fmt: skip
DECLARED: dict[str, Command] = {
    name: import_module(f"fastdreamer.commands.{name.replace('-', '_')}_command").COMMAND for name in NAMES
}
"""All commands, in the order of the help."""
COMMANDS: dict[str, Callable[[Namespace], dict[str, Any]]] = {name: found.call for name, found in DECLARED.items()}
"""What is called for each of them."""


def run_command(arguments: Namespace) -> int:
    """Run the parsed command, print its summary and, with --json, its numbers as the last line.

    What writes in a run directory holds it meanwhile (see `run_lock`). Ranks that torchrun started stay joined until
    the command line leaves them, for the line about what went wrong is theirs in common.
    """
    with _held(arguments):
        result = COMMANDS[arguments.command](arguments)
    if arguments.json:
        print(to_json(result), flush=True)
    return 1 if result.get("refused") or result.get("red") else 0


@contextmanager
def _held(arguments: Namespace) -> Iterator[None]:
    """The run directory of a command that writes there; one that is missing is made only where a run can begin."""
    from fastdreamer.run.lock import refuse_ranks, run_lock

    command = DECLARED[arguments.command]
    run_dir: Path | None = getattr(arguments, "run_dir", None)
    is_watching = any(getattr(arguments, name, 0) for name in ("pid", "dump", "print_command"))
    if command.holds == "alone":
        refuse_ranks()
    if command.holds == "ranks" and place().world > 1:
        from fastdreamer.ranks.joining import joined

        ranks = join(joined)
        if not ranks.is_main:
            ranks.wait("checked")  # what is wrong is said once
    if run_dir is None or not command.holds or is_watching or not (run_dir.is_dir() or command.begins):
        yield
        return
    with run_lock(run_dir, shared=command.holds == "together"):
        yield
