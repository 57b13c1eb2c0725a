"""What each command does: settle the configuration, call the function that does the work, show its numbers."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fastdreamer.config import Config, load_config
from fastdreamer.errors import UserError
from fastdreamer.run.kept_config import check_run, kept_configuration, run_config
from fastdreamer.run.lock import refuse_ranks, run_lock
from fastdreamer.settings import config_hash
from fastdreamer.system.folders import anchored, expanded
from fastdreamer.system.output import show, show_engines, show_evaluation, show_profile, to_json

DEFAULT_PRESET = "crafter"
BEGIN = ("demo", "study", "encode", "train")  # what may make a run directory
ALONE = ("demo", "study", "train", "diagnose", "eval", "report")  # what writes in a run as its only process
TOGETHER = ("encode", "profile")  # and what may beside its like


def run_command(arguments: argparse.Namespace) -> int:
    """Run the parsed command, print its summary and, with --json, its numbers as the last line.

    What writes in a run directory holds it meanwhile (see `run_lock`).
    """
    with _held(arguments):
        result = COMMANDS[arguments.command](arguments)
    if arguments.json:
        print(to_json(result), flush=True)
    return 1 if result.get("refused") or result.get("red") else 0


@contextmanager
def _held(arguments: argparse.Namespace) -> Iterator[None]:
    """The run directory of a command that writes there; one that is missing is made only where a run can begin."""
    run_dir: Path | None = getattr(arguments, "run_dir", None)
    is_watching = any(getattr(arguments, name, 0) for name in ("pid", "dump", "print_command"))
    if arguments.command in ALONE:
        refuse_ranks()
    is_written = arguments.command in (*ALONE, *TOGETHER) and not is_watching
    if run_dir is None or not is_written or not (run_dir.is_dir() or arguments.command in BEGIN):
        yield
        return
    with run_lock(run_dir, shared=arguments.command in TOGETHER):
        yield


def demo(arguments: argparse.Namespace) -> dict[str, Any]:
    """The whole pipeline."""
    config = resolve(arguments)
    check_run(arguments.run_dir, config)
    announce(config)
    from fastdreamer.demo import run_demo

    result = run_demo(config, arguments.run_dir)
    show_evaluation(result)
    show({"report": result["report"]})
    return result


def study(arguments: argparse.Namespace) -> dict[str, Any]:
    """A recipe over seeds, with controls; the exit code is 1 where a verdict is red."""
    if arguments.worlds is not None:
        arguments.overrides.append(f"evaluation.episodes={arguments.worlds}")
    config = resolve(arguments)
    from fastdreamer.study.recipe import run_study
    from fastdreamer.study.results import ARMS, chosen_arms, render

    arms = ARMS if arguments.arms is None else chosen_arms(arguments.arms)
    check_run(arguments.run_dir, config)
    announce(config)
    result = run_study(config, arguments.run_dir, arguments.seeds, arms)
    print(render(result))
    return result


def record(arguments: argparse.Namespace) -> dict[str, Any]:
    """Episodes of real play; the flags are short for settings."""
    flags = {"data.env": arguments.env} | {
        f"record.{name}": getattr(arguments, name) for name in ("policy", "episodes", "seed")
    }
    given = [f"{path}={value}" for path, value in flags.items() if value is not None]
    config = load_config(arguments.config or DEFAULT_PRESET, [*arguments.overrides, *given])
    from fastdreamer.envs.record import record as record_episodes

    result = record_episodes(config, arguments.out)
    show_profile(result)
    return result


def inspect(arguments: argparse.Namespace) -> dict[str, Any]:
    """What recordings hold. With --config the action space is the configuration's, else it is told from the data."""
    if arguments.reconstruct < 0:
        raise UserError(f"--reconstruct is {arguments.reconstruct}; it must be at least 0 (0: not measured)")
    recordings, run_dir = arguments.recordings, arguments.run_dir
    if recordings is not None and "=" in str(recordings) and not recordings.exists():  # a setting, and no folder
        arguments.overrides.insert(0, str(recordings))
        recordings = None
    if recordings is None and run_dir is None:
        raise UserError("no recordings named: give their folder, or --run-dir for the run's own")
    config = resolve(arguments)
    recordings = recordings or (Path(config.data.recordings) if config.data.recordings else run_dir / "recordings")
    is_told = arguments.config is not None or run_dir is not None
    has_space = is_told or any(word.startswith("data.env=") for word in arguments.overrides)
    from fastdreamer.recordings.inspect import inspect_recordings, render_inspection

    space = config.data.env if has_space else "auto"
    result = inspect_recordings(recordings, space, decode=not arguments.no_decode)
    print(render_inspection(result))
    if arguments.reconstruct and not arguments.no_decode:
        from fastdreamer.encoding.reconstruction import measure_reconstruction, render_reconstruction

        result["reconstruction"] = measure_reconstruction(
            recordings, config, space, arguments.reconstruct, pictures=arguments.pictures
        )
        print(render_reconstruction(result["reconstruction"]))
    return result


def fit_tokenizer(arguments: argparse.Namespace) -> dict[str, Any]:
    """A small tokenizer from recordings."""
    config = resolve(arguments)
    announce(config)
    from fastdreamer.tokenizer.fitting.fit import fit_tokenizer as fit

    return show(fit(config, arguments.recordings, arguments.out))


def fetch_weights(arguments: argparse.Namespace) -> dict[str, Any]:
    """The tokenizer's weights, into the folder that the configuration reads them from."""
    config = load_config(arguments.config or "minerl_cosmos", arguments.overrides)
    if arguments.out is None and config.tokenizer.weights in ("embedded", "random"):
        raise UserError(
            f"tokenizer.weights is {config.tokenizer.weights}, which needs no fetching: name a --out folder"
        )
    from fastdreamer.tokenizer.fetch import fetch_weights as fetch

    out = arguments.out or expanded(config.tokenizer.weights)
    repo = {} if arguments.repo is None else {"repo": arguments.repo}
    return show(fetch(out, revision=arguments.revision, token=arguments.token, replace=arguments.replace, **repo))


def build_engines(arguments: argparse.Namespace) -> dict[str, Any]:
    """Compiled tokenizers; an engine over its limit is not installed, and the exit code is then 1."""
    if arguments.random_weights:
        arguments.overrides.append("tokenizer.weights=random")
    if arguments.precision:
        arguments.overrides.append(f"engines.precision={arguments.precision}")
    config = resolve(arguments)
    announce(config)
    from fastdreamer.device import choose_device
    from fastdreamer.tokenizer.engines.build_engines import build_engines as build

    targets, backends = ([w for w in (text or "").split(",") if w] for text in (arguments.target, arguments.backend))
    parts = ("encoder", "decoder") if arguments.decoder else ("encoder",)
    result = build(config, choose_device(config).device, targets, backends, parts, arguments.replace)
    show_engines(result)
    return result


def encode(arguments: argparse.Namespace) -> dict[str, Any]:
    """Recordings to a latent store. Folders named by flags are remembered in the run's configuration."""
    for name in ("recordings", "store"):
        if getattr(arguments, name) is not None:
            arguments.overrides.append(f"data.{name}={getattr(arguments, name).absolute()}")
    config, run_dir = resolve(arguments), arguments.run_dir
    found = {}
    for name in ("recordings", "store"):
        folder = getattr(config.data, name)
        if not folder and run_dir is None:
            raise UserError(f"no {name} named: give --{name}, or --run-dir for the run's own")
        found[name] = Path(folder) if folder else run_dir / name
    announce(config)
    from fastdreamer.encoding.pipeline import encode_recordings

    with kept_configuration(run_dir, config):
        if arguments.replace:
            from fastdreamer.encoding.replace import replace_store

            return show(replace_store(config, found["recordings"], found["store"]))
        return show(encode_recordings(config, found["recordings"], found["store"]))


def train(arguments: argparse.Namespace) -> dict[str, Any]:
    """One phase."""
    if arguments.phase not in (1, 2, 3):
        raise UserError(
            f"phase is {arguments.phase}; there are phases 1 (world model), 2 (behaviour cloning) and 3 (imagination)"
        )
    config = resolve(arguments)
    check_run(arguments.run_dir, config)
    announce(config)
    from fastdreamer.tools.diagnosis.gates import Gates
    from fastdreamer.tools.planning.run_memory import RunMemory
    from fastdreamer.training.train import train as train_phase

    given = (arguments.run_dir, arguments.phase, arguments.resume, arguments.checkpoint)
    with kept_configuration(arguments.run_dir, config):
        return show(train_phase(config, *given, RunMemory(), Gates(arguments.force)))


def plan(arguments: argparse.Namespace) -> dict[str, Any]:
    """What each phase takes of a card; the exit code is 1 where one does not fit as configured."""
    if arguments.phase not in (None, 1, 2, 3):
        raise UserError(f"phase is {arguments.phase}; there are phases 1, 2 and 3, and without --phase all are planned")
    if arguments.card and arguments.budget:
        raise UserError(f"--card {arguments.card} and --budget {arguments.budget} say the same thing: give one of them")
    config = resolve(arguments)
    from fastdreamer.tools.planning.gpus import default_budget, named_card, sized_card
    from fastdreamer.tools.planning.plan_command import plan_run

    if arguments.card:
        budget = named_card(config, arguments.card)
    else:
        budget = sized_card(config, arguments.budget) if arguments.budget else default_budget(config)
    run_dir = arguments.run_dir
    store = Path(config.data.store) if config.data.store else None if run_dir is None else run_dir / "store"
    return plan_run(config, budget, (arguments.phase,) if arguments.phase else (1, 2, 3), store)


def profile(arguments: argparse.Namespace) -> dict[str, Any]:
    """Where the time of a phase, of encode or of imagination goes; or where a running process stands."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # torch's profiler says much else; read when torch loads
    config = resolve(arguments)
    from fastdreamer.tools.profiling.profile import Request
    from fastdreamer.tools.profiling.profile import profile as profile_work

    request = Request.of(arguments)
    if request.runs_here:
        announce(config)
    result = profile_work(config, request)
    show_profile(result)
    return result


def diagnose(arguments: argparse.Namespace) -> dict[str, Any]:
    """Every check of a run's phases; the exit code is 1 where a red flag stands."""
    if arguments.phase not in (None, 1, 2, 3):
        raise UserError(f"phase is {arguments.phase}; there are phases 1, 2 and 3, and without --phase all")
    given = {name: getattr(arguments, name) for name in ("states", "tries") if getattr(arguments, name) is not None}
    if given and not arguments.audit:
        raise UserError(f"--{next(iter(given))} is for --audit: give both")
    config = resolve(arguments)
    check_run(arguments.run_dir, config)
    announce(config)
    from fastdreamer.tools.diagnosis.audit import Effort
    from fastdreamer.tools.diagnosis.diagnose import diagnose as diagnose_run
    from fastdreamer.tools.diagnosis.diagnose import render

    phases, effort = (arguments.phase,) if arguments.phase else (), Effort(**given) if arguments.audit else None
    result = diagnose_run(config, arguments.run_dir, phases, effort=effort)
    print(render(result))
    return result


def evaluate(arguments: argparse.Namespace) -> dict[str, Any]:
    """Closed and open loop; the numbers are those of summary.json."""
    config = resolve(arguments)
    check_run(arguments.run_dir, config)
    announce(config)
    from fastdreamer.evaluation.evaluate import evaluate as evaluate_run
    from fastdreamer.run.summary import write_summary

    evaluate_run(config, arguments.run_dir)
    result = write_summary(arguments.run_dir)
    show_evaluation(result)
    return result


def doctor(arguments: argparse.Namespace) -> dict[str, Any]:
    """What this machine has; the exit code is 1 where something is wrong, or the demo cannot run."""
    from fastdreamer.tools.doctor.doctor_table import render
    from fastdreamer.tools.doctor.examine import examine

    result = examine(config_name(arguments), arguments.overrides, arguments.run_dir)
    print(render(result))
    return result


def report(arguments: argparse.Namespace) -> dict[str, Any]:
    """The page."""
    from fastdreamer.report.page import write_report

    return show(write_report(arguments.run_dir))


COMMANDS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "demo": demo,
    "study": study,
    "record": record,
    "inspect": inspect,
    "fit-tokenizer": fit_tokenizer,
    "fetch-weights": fetch_weights,
    "build-engines": build_engines,
    "encode": encode,
    "plan": plan,
    "train": train,
    "profile": profile,
    "diagnose": diagnose,
    "doctor": doctor,
    "eval": evaluate,
    "report": report,
}


def resolve(arguments: argparse.Namespace) -> Config:
    """The configuration: --config, else the run's own, else the default preset where no run is named."""
    return anchored(load_config(config_name(arguments), arguments.overrides))


def config_name(arguments: argparse.Namespace) -> str:
    """The preset or file that `resolve` reads."""
    run_dir = getattr(arguments, "run_dir", None)
    name = arguments.config
    if name is None and run_dir is not None:
        name = str(run_config(run_dir))
    return name or DEFAULT_PRESET


def announce(config: Config) -> None:
    """Print the one choice of device and precision, and which configuration this is."""
    from fastdreamer.device import choose_device

    print(f"device: {choose_device(config)}; configuration {config_hash(config)}", flush=True)
