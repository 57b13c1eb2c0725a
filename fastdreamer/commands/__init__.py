"""The commands: what each is called and takes; its arguments, its call and its printing stand in the files here.

A command's call settles the configuration, imports what does the work, and shows its numbers; importing this package is
cheap, so that help and mistakes are quick.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fastdreamer.commands import data, looks, runs, tokenizers
from fastdreamer.commands.command import Command
from fastdreamer.system.output import to_json

DECLARED = {
    command.name: command
    for command in (
        Command(
            "demo", "the whole pipeline on real play, from recording to report",
            runs.demo, runs.demo_arguments, run_dir="optional", begins=True, holds="alone",
        ),
        Command(
            "study", "a recipe over seeds, with controls, on one page",
            runs.study, runs.study_arguments, run_dir="required", begins=True, holds="alone",
        ),
        Command("record", "play an environment and write the recordings", data.record, data.record_arguments),
        Command(
            "inspect", "episodes, returns, actions and damage of recordings",
            data.inspect, data.inspect_arguments, run_dir="optional",
        ),
        Command(
            "fit-tokenizer", "train a small tokenizer on recordings",
            tokenizers.fit_tokenizer, tokenizers.fit_tokenizer_arguments,
        ),
        Command(
            "fetch-weights", "the Cosmos tokenizer's weights from the Hugging Face hub",
            tokenizers.fetch_weights, tokenizers.fetch_weights_arguments,
        ),
        Command(
            "build-engines", "compile the frozen tokenizer and compare it with eager",
            tokenizers.build_engines, tokenizers.build_engines_arguments, run_dir="optional",
        ),
        Command(
            "encode", "recordings to latents, with the frozen tokenizer",
            data.encode, data.encode_arguments, run_dir="optional", begins=True, holds="together",
        ),
        Command(
            "plan", "what each phase takes of a GPU's memory, and what would fit",
            looks.plan, looks.plan_arguments, run_dir="optional",
        ),
        Command(
            "train", "phase 1: world model, 2: behaviour cloning, 3: imagination",
            runs.train, runs.train_arguments, run_dir="required", begins=True, holds="alone",
        ),
        Command(
            "profile", "where time and memory go, and where a process stands",
            looks.profile, looks.profile_arguments, run_dir="optional", holds="together",
        ),
        Command(
            "diagnose", "what is wrong with a run, and what helps",
            looks.diagnose, looks.diagnose_arguments, run_dir="required", holds="alone",
        ),
        Command(
            "doctor", "what this machine has, what is wrong, and the line that mends it",
            looks.doctor, run_dir="optional",
        ),
        Command(
            "eval", "play the environment, and measure the world model on held-out episodes",
            runs.evaluate, run_dir="required", holds="alone",
        ),
        Command("report", "write report.html for a run", runs.report, run_dir="required", holds="alone"),
    )
}  # fmt: skip
"""All commands, in the order of the help."""
COMMANDS: dict[str, Callable[[Namespace], dict[str, Any]]] = {name: found.call for name, found in DECLARED.items()}
"""What is called for each of them."""


def run_command(arguments: Namespace) -> int:
    """Run the parsed command, print its summary and, with --json, its numbers as the last line.

    What writes in a run directory holds it meanwhile (see `run_lock`).
    """
    with _held(arguments):
        result = COMMANDS[arguments.command](arguments)
    if arguments.json:
        print(to_json(result), flush=True)
    return 1 if result.get("refused") or result.get("red") else 0


@contextmanager
def _held(arguments: Namespace) -> Iterator[None]:
    """The run directory of a command that writes there; one that is missing is made only where a run can begin."""
    from fastdreamer.run.lock import refuse_ranks, run_lock

    command = DECLARED[arguments.command]
    run_dir: Path | None = getattr(arguments, "run_dir", None)
    is_watching = any(getattr(arguments, name, 0) for name in ("pid", "dump", "print_command"))
    if command.holds == "alone":
        refuse_ranks()
    if run_dir is None or not command.holds or is_watching or not (run_dir.is_dir() or command.begins):
        yield
        return
    with run_lock(run_dir, shared=command.holds == "together"):
        yield
