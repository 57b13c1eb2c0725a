"""`fastdreamer train`: phase 1: world model, 2: behaviour cloning, 3: imagination."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import Any

from fastdreamer.commands.command import Command, folder, number, resolve_for_run
from fastdreamer.errors import UserError
from fastdreamer.system.output import show


def _arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--phase", type=number, metavar="1|2|3", required=True)
    parser.add_argument("--resume", action="store_true", help="go on from the newest checkpoint of this phase")
    parser.add_argument("--checkpoint", type=folder, metavar="DIR", help="the earlier phase's; default: the run's")
    parser.add_argument(
        "--force", action="store_true", help="go on where a gate between phases refuses; it is recorded"
    )


def call(arguments: Namespace) -> dict[str, Any]:
    """Train one phase."""
    if arguments.phase not in (1, 2, 3):
        raise UserError(
            f"phase is {arguments.phase}; there are phases 1 (world model), 2 (behaviour cloning) and 3 (imagination)"
        )
    config = resolve_for_run(arguments)
    from fastdreamer.run.kept_config import kept_configuration
    from fastdreamer.tools.diagnosis.gates import Gates
    from fastdreamer.tools.planning.run_memory import RunMemory
    from fastdreamer.training.train import train as train_phase

    given = (arguments.run_dir, arguments.phase, arguments.resume, arguments.checkpoint)
    with kept_configuration(arguments.run_dir, config):
        return show(train_phase(config, *given, RunMemory(), Gates(arguments.force)))


COMMAND = Command(
    "train", "phase 1: world model, 2: behaviour cloning, 3: imagination",
    call, _arguments, run_dir="required", begins=True, holds="ranks",
)  # fmt: skip
