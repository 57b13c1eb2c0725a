"""`fastdreamer record`: play an environment and write the recordings."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import Any

from fastdreamer.commands.command import DEFAULT_PRESET, Command, folder, given, number
from fastdreamer.system.output import show_tables


def _arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--env", type=given, metavar="NAME", help="the environment (default: the configuration's data.env)"
    )
    parser.add_argument("--policy", type=given, metavar="expert|random", help="who plays")
    parser.add_argument("--episodes", type=number, metavar="N", help="how many episodes")
    parser.add_argument("--seed", type=number, metavar="S", help="the first episode's world; later ones count up")
    parser.add_argument("--out", type=folder, metavar="DIR", required=True, help="where the recordings go")


def call(arguments: Namespace) -> dict[str, Any]:
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


COMMAND = Command("record", "play an environment and write the recordings", call, _arguments)
