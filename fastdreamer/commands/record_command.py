"""`fastdreamer record`: play an environment and write the recordings."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING, Any

from fastdreamer.commands.command import DEFAULT_PRESET, Command, folder, given, number
from fastdreamer.commands.play_command import add_serving, check_libraries, opened, serve
from fastdreamer.errors import UserError
from fastdreamer.system.output import show_tables

if TYPE_CHECKING:
    from fastdreamer.config import Config


def _arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--env", type=given, metavar="NAME", help="the environment (default: the configuration's data.env)"
    )
    parser.add_argument(
        "--policy", type=given, metavar="expert|random|human", help="who plays; human: you, in the browser"
    )
    parser.add_argument("--episodes", type=number, metavar="N", help="how many episodes")
    parser.add_argument("--seed", type=number, metavar="S", help="the first episode's world; later ones count up")
    parser.add_argument("--out", type=folder, metavar="DIR", required=True, help="where the recordings go")
    add_serving(parser)


def call(arguments: Namespace) -> dict[str, Any]:
    """Episodes of real play; the flags are short for settings."""
    from fastdreamer.config import load_config

    flags = {"data.env": arguments.env} | {
        f"record.{name}": getattr(arguments, name) for name in ("policy", "episodes", "seed")
    }
    given = [f"{path}={value}" for path, value in flags.items() if value is not None]
    config = load_config(arguments.config or DEFAULT_PRESET, [*arguments.overrides, *given])
    if config.record.policy == "human":
        return _by_a_person(arguments, config)
    from fastdreamer.envs.record import record as record_episodes

    result = record_episodes(config, arguments.out)
    show_tables(result)
    return result


def _by_a_person(arguments: Namespace, config: Config) -> dict[str, Any]:
    """The page of `fastdreamer play`, whose real game is recorded; the dream beside it is the one that ships."""
    if config.data.env != "crafter":
        raise UserError(f"data.env is {config.data.env!r}: only crafter can be recorded here")
    check_libraries()
    world = opened(Namespace(run_dir=None, config=None, overrides=[]))
    return serve(arguments, world, arguments.out, config.record.seed)


COMMAND = Command("record", "play an environment and write the recordings", call, _arguments)
