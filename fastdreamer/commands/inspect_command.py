"""`fastdreamer inspect`: episodes, returns, actions and damage of recordings; or what a latent store holds."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import Any

from fastdreamer.commands.command import Command, folder, number, resolve
from fastdreamer.errors import UserError


def _arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "recordings",
        type=folder,
        nargs="?",
        metavar="DIR",
        help="recordings, or a latent store; default: the run's recordings",
    )
    parser.add_argument("--no-decode", action="store_true", help="count frames without decoding every video")
    parser.add_argument(
        "--reconstruct",
        type=number,
        default=4,
        metavar="N",
        help="windows that go through the tokenizer and back; 0: none (default: 4)",
    )
    parser.add_argument("--pictures", type=folder, metavar="FILE", help="PNG of a window: original, unpooled, pooled")


def call(arguments: Namespace) -> dict[str, Any]:
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
    from fastdreamer.latents.store_inspection import inspect_store, is_store, render_store

    if recordings is not None and is_store(recordings):
        if arguments.pictures:
            raise UserError(
                f"{recordings} is a latent store, which has no pictures: name recordings, or drop --pictures"
            )
        held = inspect_store(recordings)
        print(render_store(held))
        return held
    is_told = arguments.config is not None or run_dir is not None
    has_space = is_told or any(word.startswith("data.env=") for word in arguments.overrides)
    from fastdreamer.recordings.inspect import inspect_recordings, render_inspection
    from fastdreamer.run.run_files import recordings_of

    recordings = recordings or recordings_of(config, run_dir)
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


COMMAND = Command(
    "inspect", "episodes, returns, actions and damage of recordings", call, _arguments, run_dir="optional"
)
