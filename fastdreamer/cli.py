"""The command line. Only arguments are read here; everything heavy loads once a command runs (see `commands/`)."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from types import FrameType
from typing import NoReturn

from fastdreamer import __version__
from fastdreamer.commands import DECLARED, run_command
from fastdreamer.commands.command import folder, given
from fastdreamer.errors import Ended, OfAllRanks, RanksDiffer, UserError
from fastdreamer.ranks import membership
from fastdreamer.ranks.torchrun import place
from fastdreamer.system import cores
from fastdreamer.system.advice import Call, running
from fastdreamer.system.failures import bug, compile_trouble, disk_trouble, import_trouble, out_of_memory, stop_signals
from fastdreamer.system.output import clean_streams, is_unread, one_line

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 128 + signal.SIGINT
EXIT_BUG = 1
EXIT_UNREAD = 1

OVERRIDES = "settings may follow as section.key=value, for example: phase1.steps=500 dynamics.dim=256"


_requests: list[int] = []  # signals that asked this process to stop


class Parser(argparse.ArgumentParser):
    """An argument parser that says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        """Print the line and exit 2."""
        if not place().rank:  # all ranks of torchrun have the same words
            print(f"fastdreamer: error: {one_line(message)} (see {self.prog} --help)", file=sys.stderr)
        raise SystemExit(EXIT_USER_ERROR)


def build_parser() -> Parser:
    """Build the parser of all commands and their flags."""
    about = "Dreamer 4-style agents from recordings of play."
    parser = Parser(prog="fastdreamer", description=about, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"fastdreamer {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    for name, command in DECLARED.items():
        usage, summary = f"fastdreamer {name} [options] [section.key=value ...]", command.summary
        sub = commands.add_parser(
            name, help=summary, description=summary, epilog=OVERRIDES, usage=usage, allow_abbrev=False
        )
        sub.add_argument("--config", type=given, metavar="NAME|FILE", help="a preset's name or a YAML file")
        sub.add_argument("--json", action="store_true", help="end with the same numbers as one line of JSON")
        if command.run_dir:
            is_required = command.run_dir == "required"
            sub.add_argument("--run-dir", type=folder, metavar="DIR", required=is_required, help="the run's folder")
        command.arguments(sub)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0 done, 1 a check is red or a bug of ours, 2 the user's mistake.

    130 is Ctrl-C. Whatever goes wrong is one line on stderr; the report of a bug is in the file that the line names.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    with clean_streams():
        return _run(words)


def _run(words: list[str]) -> int:
    parser = build_parser()
    # argparse cannot mix options with a free list of settings, so those are what it leaves over.
    parsed, overrides = parser.parse_known_args(words)
    for word in overrides:
        if word.startswith("-") or "=" not in word:
            parser.error(f"{parsed.command}: unexpected argument {word!r}")
    parsed.overrides = overrides
    if not _is_somewhere():
        return _fail("the current folder is not there any more: go to one that is, and start again there")
    with running(Call(tuple(words), vars(parsed) | {"overrides": None}, tuple(overrides))):
        try:
            status = run_command(parsed)
            if sys.stdout is not None:
                sys.stdout.flush()  # what cannot be printed is known here, not when the interpreter ends
            return _stopped_by() or status
        except Ended as ended:
            return ended.status
        except UserError as error:
            return _stopped_by() or _refuse(error)
        except KeyboardInterrupt:
            membership.current().end("", EXIT_INTERRUPTED)
            print("fastdreamer: interrupted", file=sys.stderr)
            return EXIT_INTERRUPTED
        except SystemExit as stop:
            membership.current().end("", stop.code if isinstance(stop.code, int) else EXIT_BUG)
            raise
        except Exception as error:
            if isinstance(error, BrokenPipeError) and is_unread():
                # `fastdreamer inspect | head`: keep the interpreter from failing again when it flushes.
                os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
                membership.current().end("", EXIT_UNREAD)
                return EXIT_UNREAD
            if status := _stopped_by():
                return status
            mend = disk_trouble(error) or out_of_memory(error) or compile_trouble(error) or import_trouble(error)
            return _fail(mend) if mend else _fail(bug(error, parsed), EXIT_BUG)
        finally:
            membership.leave()


def _stopped_by() -> int:
    """The exit code of a signal to stop, 0 without one.

    What the handler raised may be lost: a library makes an error of it, and Python ignores it inside a finaliser.
    """
    status = 128 + _requests[0] if _requests else 0
    if status:
        membership.current().end("", status)
    return status


def run() -> NoReturn:
    """Run the installed `fastdreamer` command."""
    owner, cores.started = os.getpid(), cores.Clock.now()

    def stop(number: int, frame: FrameType | None) -> None:
        if os.getpid() != owner:  # a forked worker has nothing to clean up
            os._exit(128 + number)
        _requests.append(number)
        raise SystemExit(128 + number)

    for number in stop_signals():
        if number != signal.SIGINT:  # Python's own handler is right
            signal.signal(number, stop)  # the training loop puts its own here, which saves first
    # Torch's threads spin while they wait for one another: fast alone, ten times slower where others want a core
    # later on. A short spin keeps both (NOTES.md). It must be said before torch loads.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "2000")
    if place().world > 1:  # its C++ warns with stacks of pages where a rank or torchrun is gone, which we say in a line
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    # An account without a name, as containers have them: torch's compiler names its cache by the user.
    if not any(os.environ.get(name) for name in ("LOGNAME", "USER", "LNAME", "USERNAME")):
        os.environ["LOGNAME"] = str(os.getuid())
    raise SystemExit(main())


def _is_somewhere() -> bool:
    """Whether the current folder exists; in one that was removed not even the mathematics libraries load."""
    try:
        os.getcwd()
    except FileNotFoundError:
        return False
    except OSError:  # it may not be named, and is there
        pass
    return True


def _refuse(error: UserError) -> int:
    is_final, is_of_all = not isinstance(error, RanksDiffer), isinstance(error, OfAllRanks)
    if membership.current().end(one_line(str(error)), EXIT_USER_ERROR, is_final, is_of_all):
        return EXIT_USER_ERROR
    return _fail(str(error))


def _fail(message: str, status: int = EXIT_USER_ERROR) -> int:
    if membership.current().end(one_line(message), status):
        return status
    with suppress(OSError):  # nobody reads it, or where it should go is full
        print(f"fastdreamer: error: {one_line(message)}", file=sys.stderr, flush=True)
    return status


if __name__ == "__main__":
    run()
