"""`fastdreamer plan`: what each phase takes of a GPU's memory, and what would fit."""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError, Namespace
from dataclasses import replace
from typing import Any

from fastdreamer.commands.command import Command, given, number, resolve
from fastdreamer.errors import UserError


def _arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--phase", type=number, metavar="1|2|3", help="default: all of them")
    several = "ranks that train together, or a range (1..256) for what they would take of time and money"
    parser.add_argument("--gpus", type=given, metavar="N|A..B", help=several)
    parser.add_argument("--shard", action="store_true", help="they shard the world model in phase 1 (ranks.shard)")
    parser.add_argument(
        "--mfu", type=share, metavar="SHARE", help="of a GPU's rate that a range's steps reach; default: 0.35, a guess"
    )
    names = "for example rtx-3060, rtx-4090, h100-80gb (--card is the same)"
    parser.add_argument("--gpu", "--card", dest="gpu", type=given, metavar="NAME", help=names)
    parser.add_argument(
        "--budget", type=given, metavar="SIZE", help="a GPU's memory; default: this machine's GPU, else 12GiB"
    )


def call(arguments: Namespace) -> dict[str, Any]:
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
    phases = (arguments.phase,) if arguments.phase else (1, 2, 3)
    first, last = _several(arguments.gpus or "1")
    if arguments.shard:
        config = replace(config, ranks=replace(config.ranks, shard=True))
    if last > first or arguments.mfu:
        from fastdreamer.tools.planning.cost import MFU, table

        return table(config, budget, phases, first, last, arguments.mfu or MFU)
    return plan_run(config, budget, phases, store_of(config, arguments.run_dir), first)


def share(text: str) -> float:
    """A number above 0 and up to 1, for argparse."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 1:
        raise ArgumentTypeError(f"{text} is no share: give a number above 0 and up to 1")
    return value


def _several(text: str) -> tuple[int, int]:
    """The first and the last of a range of numbers of GPUs."""
    first, _, last = text.partition("..")
    if not first.isdigit() or not (last or first).isdigit() or not 1 <= int(first) <= int(last or first) <= 1024:
        raise UserError(f"--gpus {text} is no number of GPUs from 1 to 1024, and no range of them such as 1..256")
    return int(first), int(last or first)


COMMAND = Command(
    "plan", "what each phase takes of a GPU's memory, and what would fit", call, _arguments, run_dir="optional"
)
