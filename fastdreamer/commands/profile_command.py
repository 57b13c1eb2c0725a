"""`fastdreamer profile`: where time and memory go, and where a process stands."""

from __future__ import annotations

import os
from argparse import ArgumentParser, Namespace
from typing import Any

from fastdreamer.commands.command import Command, announce, folder, given, number, resolve
from fastdreamer.system.output import show_tables


def _arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--phase", metavar="1|2|3|encode|imagine", default="", help="whose steps are profiled")
    parser.add_argument(
        "--tool", type=given, metavar="torch|pyspy|nsys|memory|none", help="default: torch; none: bare steps"
    )
    parser.add_argument("--out", type=folder, metavar="DIR", help="where the files go; default: RUN/profiles")
    parser.add_argument("--warmup", type=number, default=3, metavar="N", help="plain steps before (default: 3)")
    parser.add_argument(
        "--steps", type=number, default=0, metavar="N", help="steps that are recorded (default: 2 to 30)"
    )
    parser.add_argument("--shapes", action="store_true", help="torch: note the shapes of every operator's inputs")
    parser.add_argument("--pid", type=number, default=0, metavar="PID", help="pyspy: flame graph of a running process")
    parser.add_argument("--seconds", type=number, default=10, metavar="S", help="with --pid: how long (default: 10)")
    parser.add_argument(
        "--dump", type=number, default=0, metavar="PID", help="pyspy: the stacks of a process that hangs"
    )
    parser.add_argument("--print-command", action="store_true", help="nsys: print the command and stop")


def call(arguments: Namespace) -> dict[str, Any]:
    """Measure what a phase, `encode` or imagination spends its time on; or show the stacks of a running process."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # torch's profiler says much else; read when torch loads
    config = resolve(arguments)
    from fastdreamer.tools.profiling.profile import Request
    from fastdreamer.tools.profiling.profile import profile as profile_work

    request = Request.of(arguments)
    if request.runs_here:
        announce(config)
    result = profile_work(config, request)
    show_tables(result)
    return result


COMMAND = Command(
    "profile", "where time and memory go, and where a process stands",
    call, _arguments, run_dir="optional", holds="together",
)  # fmt: skip
