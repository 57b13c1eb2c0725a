"""The command line. Only arguments are read here; `commands.py` and everything heavy load once a command runs."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import NoReturn

from fastdreamer import __version__
from fastdreamer.errors import UserError
from fastdreamer.system.advice import Call, running
from fastdreamer.system.broken import import_trouble
from fastdreamer.system.failures import bug, disk_trouble, out_of_memory, stop_signals
from fastdreamer.system.folders import expanded
from fastdreamer.system.terminal import clean_streams, is_unread, one_line

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 128 + signal.SIGINT
EXIT_TERMINATED = 128 + signal.SIGTERM
EXIT_BUG = 1
EXIT_UNREAD = 1

OVERRIDES = "settings may follow as section.key=value, for example: phase1.steps=500 dynamics.dim=256"


class Parser(argparse.ArgumentParser):
    """An argument parser that says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        """Print the line and exit 2."""
        print(f"fastdreamer: error: {one_line(message)} (see {self.prog} --help)", file=sys.stderr)
        raise SystemExit(EXIT_USER_ERROR)


def given(text: str) -> str:
    """A text that is not empty: the shell makes an empty one of a variable that is not set."""
    if not text.strip():
        raise argparse.ArgumentTypeError("nothing is given (is a variable of the shell not set?)")
    return text


def folder(text: str) -> Path:
    """A folder or file as it is named on the command line, where a shell left a `~` in it too.

    An empty name is refused: it would be the current folder, whose name is `.`.
    """
    try:
        return expanded(given(text))
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def number(text: str) -> int:
    """A whole number that 64 bits hold."""
    value = int(text)
    if not -(2**63) <= value < 2**63:
        raise argparse.ArgumentTypeError(f"{text} is beyond 64 bits")
    return value


number.__name__ = "int"  # argparse names it where a word is no number


def build_parser() -> Parser:
    """All commands and their flags."""
    about = "Dreamer 4-style agents from recordings of play."
    parser = Parser(prog="fastdreamer", description=about, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"fastdreamer {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def command(name: str, summary: str, run_dir: str = "") -> Parser:
        usage = f"fastdreamer {name} [options] [section.key=value ...]"
        sub = commands.add_parser(
            name, help=summary, description=summary, epilog=OVERRIDES, usage=usage, allow_abbrev=False
        )
        sub.add_argument("--config", type=given, metavar="NAME|FILE", help="a preset's name or a YAML file")
        sub.add_argument("--json", action="store_true", help="end with the same numbers as one line of JSON")
        if run_dir:
            is_required = run_dir == "required"
            sub.add_argument("--run-dir", type=folder, metavar="DIR", required=is_required, help="the run's folder")
        return sub

    demo = command("demo", "the whole pipeline on real play, from recording to report", run_dir="optional")
    demo.set_defaults(run_dir=Path("runs/demo"), config="crafter")

    study = command("study", "a recipe over seeds, with controls, on one page", run_dir="required")
    study.add_argument("--seeds", type=number, default=5, metavar="N", help="how many seeds (default: 5)")
    study.add_argument(
        "--worlds", type=number, metavar="N", help="worlds a seed plays; short for evaluation.episodes=N"
    )
    study.add_argument(
        "--arms",
        type=given,
        metavar="LIST",
        help="besides phase2 and phase3: random,shuffled_rewards,shuffled_actions,real_game",
    )

    record = command("record", "play an environment and write the recordings")
    record.add_argument(
        "--env", type=given, metavar="NAME", help="the environment (default: the configuration's data.env)"
    )
    record.add_argument("--policy", type=given, metavar="expert|random", help="who plays")
    record.add_argument("--episodes", type=number, metavar="N", help="how many episodes")
    record.add_argument("--seed", type=number, metavar="S", help="the first episode's world; later ones count up")
    record.add_argument("--out", type=folder, metavar="DIR", required=True, help="where the recordings go")

    inspect = command("inspect", "episodes, returns, actions and damage of recordings", run_dir="optional")
    inspect.add_argument("recordings", type=folder, nargs="?", metavar="DIR", help="default: the run's recordings")
    inspect.add_argument("--no-decode", action="store_true", help="count frames without decoding every video")
    inspect.add_argument(
        "--reconstruct",
        type=number,
        default=4,
        metavar="N",
        help="windows that go through the tokenizer and back; 0: none",
    )
    inspect.add_argument("--pictures", type=folder, metavar="FILE", help="PNG of a window: original, unpooled, pooled")

    fit = command("fit-tokenizer", "train a small tokenizer on recordings")
    fit.add_argument("--recordings", type=folder, metavar="DIR", required=True)
    fit.add_argument("--out", type=folder, metavar="DIR", required=True, help="where the tokenizer goes")

    fetch = command("fetch-weights", "the Cosmos tokenizer's weights from the Hugging Face hub")
    fetch.add_argument("--out", type=folder, metavar="DIR", help="default: the configuration's tokenizer.weights")
    fetch.add_argument("--repo", type=given, metavar="NAME", help="default: nvidia/Cosmos-1.0-Tokenizer-CV8x8x8")
    fetch.add_argument(
        "--revision", type=given, metavar="COMMIT", help="default: the one fetched before, else the newest, recorded"
    )
    fetch.add_argument("--replace", action="store_true", help="what lies there gives way, once its successor is there")
    fetch.add_argument(
        "--token", type=given, metavar="TOKEN", help="of the hub; default: HF_TOKEN or the one you logged in with"
    )

    build = command("build-engines", "compile the frozen tokenizer and compare it with eager", run_dir="optional")
    build.add_argument("--target", type=given, metavar="LIST", help="cards besides this machine: sm86,sm89,sm120")
    build.add_argument(
        "--backend", type=given, metavar="LIST", help="tensorrt_rtx, tensorrt, torch-tensorrt, aot-inductor, inductor"
    )
    build.add_argument(
        "--precision", type=given, metavar="P", help="fp32, fp16 or bf16; default: fp16 on a card, fp32 on a CPU"
    )
    build.add_argument("--replace", action="store_true", help="build those that are installed and current too")
    build.add_argument("--decoder", action="store_true", help="the decoder too, for pictures")
    build.add_argument("--random-weights", action="store_true", help="random weights, to try it without the real ones")

    encode = command("encode", "recordings to latents, with the frozen tokenizer", run_dir="optional")
    encode.add_argument("--recordings", type=folder, metavar="DIR", help="default: the run's recordings")
    encode.add_argument("--store", type=folder, metavar="DIR", help="the latent store to write; default: the run's")
    encode.add_argument("--replace", action="store_true", help="a store made otherwise gives way to a new one")

    plan = command("plan", "what each phase takes of a card's memory, and what would fit", run_dir="optional")
    plan.add_argument("--phase", type=number, metavar="1|2|3", help="default: all of them")
    plan.add_argument("--card", type=given, metavar="NAME", help="for example rtx-3060, rtx-4090, h100-80gb")
    plan.add_argument(
        "--budget", type=given, metavar="SIZE", help="a card's memory; default: this machine's card, else 12GiB"
    )

    train = command("train", "phase 1: world model, 2: behaviour cloning, 3: imagination", run_dir="required")
    train.add_argument("--phase", type=number, metavar="1|2|3", required=True)
    train.add_argument("--resume", action="store_true", help="go on from the newest checkpoint of this phase")
    train.add_argument("--checkpoint", type=folder, metavar="FILE", help="the earlier phase's; default: the run's")
    train.add_argument("--force", action="store_true", help="go on where a gate between phases refuses; it is recorded")

    profile = command("profile", "where time and memory go, and where a process stands", run_dir="optional")
    profile.add_argument("--phase", metavar="1|2|3|encode|imagine", default="", help="whose steps are profiled")
    profile.add_argument(
        "--tool", type=given, metavar="torch|pyspy|nsys|memory|none", help="default: torch; none: bare steps"
    )
    profile.add_argument("--out", type=folder, metavar="DIR", help="where the files go; default: RUN/profiles")
    profile.add_argument("--warmup", type=number, default=3, metavar="N", help="plain steps before (default: 3)")
    profile.add_argument(
        "--steps", type=number, default=0, metavar="N", help="steps that are recorded (default: 2 to 30)"
    )
    profile.add_argument("--shapes", action="store_true", help="torch: note the shapes of every operator's inputs")
    profile.add_argument("--pid", type=number, default=0, metavar="PID", help="pyspy: flame graph of a running process")
    profile.add_argument("--seconds", type=number, default=10, metavar="S", help="with --pid: how long (default: 10)")
    profile.add_argument(
        "--dump", type=number, default=0, metavar="PID", help="pyspy: the stacks of a process that hangs"
    )
    profile.add_argument("--print-command", action="store_true", help="nsys: print the command and stop")

    diagnose = command("diagnose", "what is wrong with a run, and what helps", run_dir="required")
    diagnose.add_argument("--phase", type=number, metavar="1|2|3", help="default: all that are trained")
    diagnose.add_argument("--audit", action="store_true", help="try every action in the game and in imagination too")
    diagnose.add_argument(
        "--states", type=number, metavar="N", help="--audit: from so many states a kind (default: 16)"
    )
    diagnose.add_argument("--tries", type=number, metavar="N", help="--audit: so many times each (default: 8)")

    command("doctor", "what this machine has, what is wrong, and the line that mends it", run_dir="optional")
    command("eval", "play the environment, and measure the world model on held-out episodes", run_dir="required")
    command("report", "write report.html for a run", run_dir="required")
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
            from fastdreamer.commands import run_command

            status = run_command(parsed)
            if sys.stdout is not None:
                sys.stdout.flush()  # what cannot be printed is known here, not when the interpreter ends
            return status
        except UserError as error:
            return _fail(str(error))
        except KeyboardInterrupt:
            print("fastdreamer: interrupted", file=sys.stderr)
            return EXIT_INTERRUPTED
        except Exception as error:
            if isinstance(error, BrokenPipeError) and is_unread():
                # `fastdreamer inspect | head`: keep the interpreter from failing again when it flushes.
                os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
                return EXIT_UNREAD
            mend = disk_trouble(error) or out_of_memory(error) or import_trouble(error)
            return _fail(mend) if mend else _fail(bug(error, parsed), EXIT_BUG)


def run() -> NoReturn:
    """The installed `fastdreamer` command."""
    owner = os.getpid()

    def stop(number: int, frame: FrameType | None) -> None:
        if os.getpid() != owner:  # a forked worker has nothing to clean up
            os._exit(128 + number)
        raise SystemExit(128 + number)

    for number in stop_signals():
        if number != signal.SIGINT:  # Python's own handler is right
            signal.signal(number, stop)  # the training loop puts its own here, which saves first
    # Torch's threads spin while they wait for one another: fast alone, ten times slower where others want a core.
    # A short spin keeps both (NOTES.md). It must be said before torch loads.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "20000")
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


def _fail(message: str, status: int = EXIT_USER_ERROR) -> int:
    with suppress(OSError):  # nobody reads it, or where it should go is full
        print(f"fastdreamer: error: {one_line(message)}", file=sys.stderr, flush=True)
    return status


if __name__ == "__main__":
    run()
