"""The commands that look at a run, its memory and its machine: plan, profile, diagnose and doctor."""

from __future__ import annotations

import os
from argparse import ArgumentParser, Namespace
from typing import Any

from fastdreamer.commands.command import announce, config_name, folder, given, number, resolve, resolve_for_run
from fastdreamer.errors import UserError
from fastdreamer.system.output import show_tables


def plan_arguments(parser: ArgumentParser) -> None:
    """What `plan` takes."""
    parser.add_argument("--phase", type=number, metavar="1|2|3", help="default: all of them")
    names = "for example rtx-3060, rtx-4090, h100-80gb (--card is the same)"
    parser.add_argument("--gpu", "--card", dest="gpu", type=given, metavar="NAME", help=names)
    parser.add_argument(
        "--budget", type=given, metavar="SIZE", help="a GPU's memory; default: this machine's GPU, else 12GiB"
    )


def plan(arguments: Namespace) -> dict[str, Any]:
    """What each phase takes of a GPU; the exit code is 1 where one does not fit as configured."""
    if arguments.phase not in (None, 1, 2, 3):
        raise UserError(f"phase is {arguments.phase}; there are phases 1, 2 and 3, and without --phase all are planned")
    if arguments.gpu and arguments.budget:
        raise UserError(f"--gpu {arguments.gpu} and --budget {arguments.budget} say the same thing: give one of them")
    config = resolve(arguments)
    from fastdreamer.run.run_files import store_of
    from fastdreamer.tools.planning.gpus import default_budget, named_gpu, sized_gpu
    from fastdreamer.tools.planning.run_memory import plan_run

    if arguments.gpu:
        budget = named_gpu(config, arguments.gpu)
    else:
        budget = sized_gpu(config, arguments.budget) if arguments.budget else default_budget(config)
    store = store_of(config, arguments.run_dir)
    return plan_run(config, budget, (arguments.phase,) if arguments.phase else (1, 2, 3), store)


def profile_arguments(parser: ArgumentParser) -> None:
    """What `profile` takes."""
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


def profile(arguments: Namespace) -> dict[str, Any]:
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


def diagnose_arguments(parser: ArgumentParser) -> None:
    """What `diagnose` takes."""
    parser.add_argument("--phase", type=number, metavar="1|2|3", help="default: all that are trained")
    parser.add_argument("--audit", action="store_true", help="try every action in the game and in imagination too")
    parser.add_argument("--states", type=number, metavar="N", help="--audit: from so many states a kind (default: 16)")
    parser.add_argument("--tries", type=number, metavar="N", help="--audit: so many times each (default: 8)")


def diagnose(arguments: Namespace) -> dict[str, Any]:
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


def doctor(arguments: Namespace) -> dict[str, Any]:
    """What this machine has; the exit code is 1 where something is wrong, or the demo cannot run."""
    from fastdreamer.tools.doctor.examine import examine, render

    result = examine(config_name(arguments), arguments.overrides, arguments.run_dir)
    print(render(result))
    return result
