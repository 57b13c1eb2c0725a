"""The commands that make a run and its results: demo, study, train, eval and report."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastdreamer.commands.command import announce, folder, given, number, resolve, resolve_for_run
from fastdreamer.errors import UserError
from fastdreamer.system.output import show


def demo_arguments(parser: ArgumentParser) -> None:
    """What `demo` takes."""
    parser.set_defaults(run_dir=Path("runs/demo"), config="crafter")


def demo(arguments: Namespace) -> dict[str, Any]:
    """Run the whole pipeline."""
    config = resolve_for_run(arguments)
    from fastdreamer.demo import run_demo

    result = run_demo(config, arguments.run_dir)
    show_evaluation(result)
    show({"report": result["report"]})
    return result


def study_arguments(parser: ArgumentParser) -> None:
    """What `study` takes."""
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


def study(arguments: Namespace) -> dict[str, Any]:
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


def train_arguments(parser: ArgumentParser) -> None:
    """What `train` takes."""
    parser.add_argument("--phase", type=number, metavar="1|2|3", required=True)
    parser.add_argument("--resume", action="store_true", help="go on from the newest checkpoint of this phase")
    parser.add_argument("--checkpoint", type=folder, metavar="DIR", help="the earlier phase's; default: the run's")
    parser.add_argument(
        "--force", action="store_true", help="go on where a gate between phases refuses; it is recorded"
    )


def train(arguments: Namespace) -> dict[str, Any]:
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


def evaluate(arguments: Namespace) -> dict[str, Any]:
    """Closed and open loop; the numbers are those of summary.json."""
    config = resolve_for_run(arguments)
    from fastdreamer.evaluation.evaluate import evaluate as evaluate_run
    from fastdreamer.run.metrics import write_summary

    evaluate_run(config, arguments.run_dir)
    result = write_summary(arguments.run_dir)
    show_evaluation(result)
    return result


def show_evaluation(summary: Mapping[str, Any]) -> None:
    """Print the table of policies, and seconds a stage where they are known."""
    evaluation = summary.get("eval", {})
    for note in evaluation.get("notes", []):
        print(f"note: {note}")
    for task, entry in (evaluation.get("tasks") or {evaluation.get("task", ""): evaluation}).items():
        print(f"{'policy':<16}{'return':>8}   {'95 % interval':<16}{'episodes':>8}{f'   task {task}' if task else ''}")
        for name, row in entry.get("policies", {}).items():
            interval = f"{row['return_low']:.2f} to {row['return_high']:.2f}"
            print(f"{name:<16}{row['return_mean']:>8.2f}   {interval:<16}{row['episodes']:>8}")
        _show_calibration(entry.get("reward_calibration", {}))
    _show_world_model(summary.get("world_model", {}))
    if summary.get("seconds"):
        show({"seconds": summary["seconds"]})


def _show_calibration(calibration: Mapping[str, Any]) -> None:
    """Print predicted beside paid reward."""
    if calibration:
        print(f"{'reward of play':<16}{'predicted':>10}{'paid':>8}{'ratio':>8}   (an episode)")
    for name, row in calibration.items():
        ratio = "-" if row["ratio"] is None or row["ratio"]["mean"] is None else f"{row['ratio']['mean']:.2f}"
        print(f"{name:<16}{row['predicted']['mean']:>10.2f}{row['paid']['mean']:>8.2f}{ratio:>8}")


def _show_world_model(world_model: Mapping[str, Any]) -> None:
    """Print one sample beside copying, imagined beside real reward."""
    if "one_step" in world_model:
        step, over = world_model["one_step"], world_model["one_sample_over_copy"]
        won = sum(ratio["mean"] < 1 for ratio in over)
        line = (
            f"one sample: {step['over_copy']['mean']:.2f} of copying's error at the first step, below it at {won} of "
        )
        found = (world_model.get("reward_correlation") or {}).get("imagined_against_real")
        reward = f"; imagined against real reward: correlation {found['mean']:.2f}" if found else ""
        print(f"{line}{len(over)} horizons{reward}")


def report(arguments: Namespace) -> dict[str, Any]:
    """Write the report's page."""
    from fastdreamer.report.page import write_report

    return show(write_report(arguments.run_dir))
