"""`fastdreamer pack`: a trained run made small enough to give away."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import Any

from fastdreamer.commands.command import Command, folder, given, number
from fastdreamer.errors import UserError


def _arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--out", type=folder, metavar="DIR", required=True, help="where it goes; must not exist yet")
    parser.add_argument(
        "--recordings", type=number, default=3, metavar="N", help="held-out recordings that go along (default: 3)"
    )
    parser.add_argument("--half", action="store_true", help="store weights in half precision; they are used in full")
    parser.add_argument("--licence", type=given, metavar="TEXT", help="that of the recordings, for the card")


def call(arguments: Namespace) -> dict[str, Any]:
    """Pack the run; the numbers are those of its card."""
    if arguments.config is not None or arguments.overrides:
        raise UserError("pack takes the run as it is, with its own configuration: leave --config and settings out")
    from fastdreamer.tools.packing.pack import Pack, pack

    result = pack(arguments.run_dir, arguments.out, Pack(arguments.recordings, arguments.half, arguments.licence or ""))
    phases = ", ".join(f"{told['what']} ({told['steps']:,} steps)" for told in result["phases"].values())
    print(f"{result['out']}: {result['bytes'] / 1e6:.1f} MB; {phases}; {len(result['recordings'])} held-out recordings")
    return result


COMMAND = Command("pack", "a trained run made small enough to give away", call, _arguments, run_dir="required")
