"""`fastdreamer eval`: play the environment, and measure the world model on held-out episodes."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from typing import Any

from fastdreamer.commands.command import Command, resolve_for_run
from fastdreamer.system.output import show


def call(arguments: Namespace) -> dict[str, Any]:
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


COMMAND = Command(
    "eval", "play the environment, and measure the world model on held-out episodes",
    call, run_dir="required", holds="alone",
)  # fmt: skip
