"""`fastdreamer encode`: recordings to latents, with the frozen tokenizer."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

from fastdreamer.commands.command import Command, announce, folder, resolve
from fastdreamer.errors import UserError
from fastdreamer.system.output import show


def _arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--recordings", type=folder, metavar="DIR", help="default: the run's recordings")
    parser.add_argument("--store", type=folder, metavar="DIR", help="the latent store to write; default: the run's")
    parser.add_argument("--replace", action="store_true", help="a store made otherwise gives way to a new one")


def call(arguments: Namespace) -> dict[str, Any]:
    """Recordings to a latent store. Folders named by flags are remembered in the run's configuration."""
    for name in ("recordings", "store"):
        if getattr(arguments, name) is not None:
            arguments.overrides.append(f"data.{name}={getattr(arguments, name).absolute()}")
    config, run_dir = resolve(arguments), arguments.run_dir
    from fastdreamer.run.run_files import recordings_of, store_of

    recordings = _known("recordings", recordings_of(config, run_dir))
    store = _known("store", store_of(config, run_dir))
    announce(config)
    from fastdreamer.encoding.pipeline import encode_recordings
    from fastdreamer.run.kept_config import kept_configuration

    with kept_configuration(run_dir, config):
        if arguments.replace:
            from fastdreamer.encoding.replace import replace_store

            return show(replace_store(config, recordings, store))
        return show(encode_recordings(config, recordings, store))


def _known(name: str, path: Path | None) -> Path:
    if path is None:
        raise UserError(f"no {name} named: give --{name}, or --run-dir for the run's own")
    return path


COMMAND = Command(
    "encode", "recordings to latents, with the frozen tokenizer",
    call, _arguments, run_dir="optional", begins=True, holds="together",
)  # fmt: skip
