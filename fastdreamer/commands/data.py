"""The commands on recordings and latents: record, inspect and encode."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

from fastdreamer.commands.command import DEFAULT_PRESET, announce, folder, given, number, resolve
from fastdreamer.errors import UserError
from fastdreamer.system.output import show, show_tables


def record_arguments(parser: ArgumentParser) -> None:
    """What `record` takes."""
    parser.add_argument(
        "--env", type=given, metavar="NAME", help="the environment (default: the configuration's data.env)"
    )
    parser.add_argument("--policy", type=given, metavar="expert|random", help="who plays")
    parser.add_argument("--episodes", type=number, metavar="N", help="how many episodes")
    parser.add_argument("--seed", type=number, metavar="S", help="the first episode's world; later ones count up")
    parser.add_argument("--out", type=folder, metavar="DIR", required=True, help="where the recordings go")


def record(arguments: Namespace) -> dict[str, Any]:
    """Episodes of real play; the flags are short for settings."""
    from fastdreamer.config import load_config

    flags = {"data.env": arguments.env} | {
        f"record.{name}": getattr(arguments, name) for name in ("policy", "episodes", "seed")
    }
    given = [f"{path}={value}" for path, value in flags.items() if value is not None]
    config = load_config(arguments.config or DEFAULT_PRESET, [*arguments.overrides, *given])
    from fastdreamer.envs.record import record as record_episodes

    result = record_episodes(config, arguments.out)
    show_tables(result)
    return result


def inspect_arguments(parser: ArgumentParser) -> None:
    """What `inspect` takes."""
    parser.add_argument("recordings", type=folder, nargs="?", metavar="DIR", help="default: the run's recordings")
    parser.add_argument("--no-decode", action="store_true", help="count frames without decoding every video")
    parser.add_argument(
        "--reconstruct",
        type=number,
        default=4,
        metavar="N",
        help="windows that go through the tokenizer and back; 0: none (default: 4)",
    )
    parser.add_argument("--pictures", type=folder, metavar="FILE", help="PNG of a window: original, unpooled, pooled")


def inspect(arguments: Namespace) -> dict[str, Any]:
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


def encode_arguments(parser: ArgumentParser) -> None:
    """What `encode` takes."""
    parser.add_argument("--recordings", type=folder, metavar="DIR", help="default: the run's recordings")
    parser.add_argument("--store", type=folder, metavar="DIR", help="the latent store to write; default: the run's")
    parser.add_argument("--replace", action="store_true", help="a store made otherwise gives way to a new one")


def encode(arguments: Namespace) -> dict[str, Any]:
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
