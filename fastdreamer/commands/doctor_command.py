"""`fastdreamer doctor`: what this machine has, what is wrong, and the line that mends it."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

from fastdreamer.commands.command import Command, config_name


def call(arguments: Namespace) -> dict[str, Any]:
    """What this machine has; the exit code is 1 where something is wrong, or the demo cannot run."""
    from fastdreamer.tools.doctor.examine import examine, render

    result = examine(config_name(arguments), arguments.overrides, arguments.run_dir)
    print(render(result))
    return result


COMMAND = Command(
    "doctor", "what this machine has, what is wrong, and the line that mends it", call, run_dir="optional"
)
