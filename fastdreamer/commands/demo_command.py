"""`fastdreamer demo`: the whole pipeline on real play, from recording to report."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

from fastdreamer.commands.command import Command, resolve_for_run
from fastdreamer.commands.eval_command import show_evaluation
from fastdreamer.system.output import show


def _arguments(parser: ArgumentParser) -> None:
    parser.set_defaults(run_dir=Path("runs/demo"), config="crafter")


def call(arguments: Namespace) -> dict[str, Any]:
    """Run the whole pipeline."""
    config = resolve_for_run(arguments)
    from fastdreamer.demo import run_demo

    result = run_demo(config, arguments.run_dir)
    show_evaluation(result)
    show({"report": result["report"]})
    return result


COMMAND = Command(
    "demo", "the whole pipeline on real play, from recording to report",
    call, _arguments, run_dir="optional", begins=True, holds="alone",
)  # fmt: skip
