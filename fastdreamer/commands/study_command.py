"""`fastdreamer study`: a recipe over seeds, with controls, on one page."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import Any

from fastdreamer.commands.command import Command, announce, given, number, resolve


def _arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--seeds", type=number, default=5, metavar="N", help="how many seeds (default: 5)")
    parser.add_argument(
        "--worlds", type=number, metavar="N", help="worlds a seed plays; short for evaluation.episodes=N"
    )
    parser.add_argument(
        "--arms",
        type=given,
        metavar="LIST",
        help="besides phase2 and phase3: random,shuffled_rewards,shuffled_actions,real_game",
    )


def call(arguments: Namespace) -> dict[str, Any]:
    """A recipe over seeds, with controls; the exit code is 1 where a verdict is red."""
    if arguments.worlds is not None:
        arguments.overrides.append(f"evaluation.episodes={arguments.worlds}")
    config = resolve(arguments)
    from fastdreamer.run.kept_config import check_run
    from fastdreamer.study.recipe import run_study
    from fastdreamer.study.results import ARMS, chosen_arms, render

    arms = ARMS if arguments.arms is None else chosen_arms(arguments.arms)
    check_run(arguments.run_dir, config)
    announce(config)
    result = run_study(config, arguments.run_dir, arguments.seeds, arms)
    print(render(result))
    return result


COMMAND = Command(
    "study", "a recipe over seeds, with controls, on one page",
    call, _arguments, run_dir="required", begins=True, holds="alone",
)  # fmt: skip
