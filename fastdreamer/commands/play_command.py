"""`fastdreamer play`: a page in the browser where a person acts in the dream, beside the real game."""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError, Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastdreamer.commands.command import Command, folder, given
from fastdreamer.errors import UserError
from fastdreamer.system.advice import extra

if TYPE_CHECKING:
    from fastdreamer.play.loaded import Loaded

HOST, PORT = "127.0.0.1", 8765
EXTRA = "play"
EMBEDDED = Path(__file__).parents[1] / "play" / "embedded"
FREE = ("device", "precision", "compile", "memory_gb")
LIBRARIES = ("starlette", "uvicorn", "websockets")


def port(text: str) -> int:
    """A port's number."""
    value = int(text)
    if not 0 <= value < 2**16:
        raise ArgumentTypeError(f"{text} is no port: they go from 0, which is any that is free, to {2**16 - 1}")
    return value


port.__name__ = "int"


def add_serving(parser: ArgumentParser) -> None:
    """Add where the page is served; `fastdreamer record --policy human` has these too."""
    parser.add_argument("--host", type=given, default=HOST, help="who may come: by default this machine alone")
    parser.add_argument("--port", type=port, default=PORT, metavar="N", help=f"default {PORT}; 0: any that is free")
    parser.add_argument("--open", action="store_true", help="open the page in the browser")
    parser.add_argument(
        "--token", action="store_true", help="let only those in who know a secret; needed for any other --host"
    )


def _arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--record", type=folder, metavar="DIR", help="write what is played in the real game there")
    add_serving(parser)


def call(arguments: Namespace) -> dict[str, Any]:
    """Serve the page until somebody stops it."""
    check_libraries()
    return serve(arguments, opened(arguments), arguments.record)


def opened(arguments: Namespace) -> Loaded:
    """The run that is named, or the world that ships with the package.

    Raises:
        UserError: if there is none, or settings are given that a run keeps: it plays with its own.
    """
    from contextlib import redirect_stdout
    from dataclasses import replace
    from io import StringIO

    from fastdreamer.config import load_config
    from fastdreamer.device import choose_device, use_spare_cores
    from fastdreamer.play.loaded import load
    from fastdreamer.run.kept_config import run_config

    run_dir = getattr(arguments, "run_dir", None)
    if run_dir is None and not EMBEDDED.is_dir():
        raise UserError("no world ships with this version yet: name a run with --run-dir")
    file = str(run_config(run_dir or EMBEDDED))
    own, config = load_config(file), load_config(arguments.config or file, arguments.overrides)
    if config != replace(own, **{name: getattr(config, name) for name in FREE}):
        raise UserError(f"a run is played with its own settings: {', '.join(FREE)} alone can be others")
    use_spare_cores()
    loaded = load(run_dir or EMBEDDED, choose_device(config))
    if not run_dir:
        loaded = replace(loaded, title="the world of Crafter that ships with the package")
    with redirect_stdout(StringIO()):  # proved once, before anybody plays; its figure is for who trains
        _ = loaded.merges
    return loaded


def check_libraries() -> None:
    """Refuses to begin without the libraries of the extra.

    Raises:
        UserError: with the line that installs them.
    """
    from importlib.util import find_spec

    missing = [name for name in LIBRARIES if find_spec(name) is None]
    if missing:
        raise UserError(f"the page needs {', '.join(missing)}: {extra(EXTRA)}")


def serve(arguments: Namespace, loaded: Loaded, record: Path | None, seed: int = 0) -> dict[str, Any]:
    """Print the address, and serve sessions until a signal comes; the numbers are of all sessions."""
    from fastdreamer.play.dream import compile_ahead
    from fastdreamer.play.recorder import lost_episodes
    from fastdreamer.play.server import PlayServer
    from fastdreamer.play.session import Session

    def say(line: str) -> None:
        print(line, flush=True)

    server = PlayServer(
        lambda number: Session(loaded, record, seed + number - 1),
        arguments.host, arguments.port, arguments.token, say,
    )  # fmt: skip
    for line in lost_episodes(record) if record is not None else ():
        say(line)
    compile_ahead(loaded, say)
    say(f"play at {server.address} (Ctrl-C ends it)")
    if arguments.open:
        import webbrowser

        webbrowser.open(server.address)
    server.run()
    return {"sessions": server.rooms.begun, "steps": server.rooms.steps}


COMMAND = Command("play", "act in the dream beside the real game, in the browser", call, _arguments, run_dir="optional")
