"""`fastdreamer report`: write report.html for a run."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

from fastdreamer.commands.command import Command
from fastdreamer.system.output import show


def call(arguments: Namespace) -> dict[str, Any]:
    """Write the report's page."""
    from fastdreamer.report.page import write_report

    return show(write_report(arguments.run_dir))


COMMAND = Command("report", "write report.html for a run", call, run_dir="required", holds="alone")
