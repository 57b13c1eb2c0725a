"""`fastdreamer diagnose`: what is wrong with a run, and what helps."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import Any

from fastdreamer.commands.command import Command, number, resolve_for_run
from fastdreamer.errors import UserError


def _arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--phase", type=number, metavar="1|2|3", help="default: all that are trained")
    parser.add_argument("--audit", action="store_true", help="try every action in the game and in imagination too")
    parser.add_argument("--states", type=number, metavar="N", help="--audit: from so many states a kind (default: 16)")
    parser.add_argument("--tries", type=number, metavar="N", help="--audit: so many times each (default: 8)")


def call(arguments: Namespace) -> dict[str, Any]:
    """Every check of a run's phases; the exit code is 1 where a red flag stands."""
    if arguments.phase not in (None, 1, 2, 3):
        raise UserError(f"phase is {arguments.phase}; there are phases 1, 2 and 3, and without --phase all")
    given = {name: getattr(arguments, name) for name in ("states", "tries") if getattr(arguments, name) is not None}
    if given and not arguments.audit:
        raise UserError(f"--{next(iter(given))} is for --audit: give both")
    config = resolve_for_run(arguments)
    from fastdreamer.tools.diagnosis.audit import Effort
    from fastdreamer.tools.diagnosis.diagnose import diagnose as diagnose_run
    from fastdreamer.tools.diagnosis.diagnose import render

    phases, effort = (arguments.phase,) if arguments.phase else (), Effort(**given) if arguments.audit else None
    result = diagnose_run(config, arguments.run_dir, phases, effort=effort)
    print(render(result))
    return result


COMMAND = Command(
    "diagnose", "what is wrong with a run, and what helps", call, _arguments, run_dir="required", holds="alone"
)
