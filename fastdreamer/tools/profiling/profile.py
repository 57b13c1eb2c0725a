"""`fastdreamer profile`: one tool on one piece of work; every file it makes, and the top of what is in it."""

from __future__ import annotations

import shlex
from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastdreamer.config import Config
from fastdreamer.errors import UserError
from fastdreamer.tools.profiling import nsys, pyspy
from fastdreamer.tools.profiling.profiled_work import TARGETS, open_work

TOOLS = ("torch", "pyspy", "nsys", "memory", "none")
STEPS = {"pyspy": 30, "memory": 2}  # pyspy samples: it wants seconds of work; a timeline of memory is long
DEFAULT_STEPS = 5


@dataclass(frozen=True)
class Request:
    """What the command line asks for.

    Attributes:
        phase: 1, 2, 3, encode or imagine; empty where a running process is looked at.
        tool: one of `TOOLS`.
        out: the folder of the files.
        warmup, steps: steps before the measurement, and in it; 0 steps: the tool's default.
        shapes: operators apart by the shapes they got (torch).
        pid, dump: a running process: its flame graph for `seconds`, or its stacks once (pyspy).
        print_command: say what nsys would be called with, and stop.
        again: the words of a command that does the same work under another tool.
    """

    phase: str
    tool: str
    out: Path
    run_dir: Path | None = None
    warmup: int = 3
    steps: int = 0
    shapes: bool = False
    pid: int = 0
    dump: int = 0
    seconds: int = 10
    print_command: bool = False
    again: tuple[str, ...] = ()

    @classmethod
    def of(cls, arguments: Namespace) -> Request:
        """Read the request from the parsed command line; a UserError where it makes no sense."""
        run_dir: Path | None = arguments.run_dir
        named = (("--config", arguments.config), ("--run-dir", run_dir))
        again = [f"{flag}={value}" for flag, value in named if value is not None]  # one word: a folder may be called -x
        plain = ("phase", "warmup", "steps", "shapes", "pid", "dump", "seconds", "print_command")
        request = cls(
            tool=arguments.tool or ("pyspy" if arguments.pid or arguments.dump else "torch"),
            out=arguments.out or (run_dir or Path("runs")) / "profiles",
            run_dir=run_dir,
            again=(*again, *arguments.overrides),
            **{name: getattr(arguments, name) for name in plain},
        )
        request.check()
        return request

    @property
    def runs_here(self) -> bool:
        """Whether the work runs in this process."""
        return self.tool not in ("pyspy", "nsys")

    def check(self) -> None:
        """Refuse what does not go together, with a UserError."""
        if self.tool not in TOOLS:
            raise UserError(f"tool is {self.tool!r}; there are {', '.join(TOOLS[:-1])}, and none for the bare steps")
        for name, least in (("warmup", 1), ("steps", 0), ("seconds", 1)):
            if getattr(self, name) < least:
                raise UserError(f"--{name} is {getattr(self, name)}; it must be at least {max(1, least)}")
        if (self.pid or self.dump) and (self.tool != "pyspy" or self.phase):
            raise UserError("--pid and --dump look at a running process: they go with --tool pyspy and without --phase")
        if not (self.pid or self.dump) and self.phase not in TARGETS:
            given = f"--phase is {self.phase!r}" if self.phase else "no --phase is given"
            raise UserError(f"{given}: name {', '.join(TARGETS)}; or a running process with --pid or --dump")
        if self.print_command and self.tool != "nsys":
            raise UserError("--print-command goes with --tool nsys")


def profile(config: Config, request: Request) -> dict[str, Any]:
    """Run the requested tool.

    Returns:
        tool, work, numbers, tables (lists of dicts), and `files` {what: path}.

    Raises:
        UserError: if a tool is missing, or is not allowed to look.
    """
    steps = request.steps or STEPS.get(request.tool, DEFAULT_STEPS)
    result: dict[str, Any] = {"tool": request.tool}
    if request.dump:
        return result | pyspy.dump(request.dump, _file(request, f"{request.dump}-stacks.txt"))
    if request.pid:
        return result | pyspy.attach(request.pid, request.seconds, _file(request, f"{request.pid}-pyspy.svg"))
    name = TARGETS[request.phase]
    schedule = ("--warmup", str(request.warmup), "--steps", str(steps))
    again = ("profile", "--phase", request.phase, "--tool", "none", *schedule, *request.again)
    if request.tool == "pyspy":
        return result | {"work": name} | pyspy.record(again, _file(request, f"{name}-pyspy.svg"))
    if request.tool == "nsys":
        file = request.out / f"{name}.nsys-rep"
        if request.print_command:
            return result | {"work": name, "command": shlex.join(nsys.command("nsys", again, file))}
        return result | {"work": name} | nsys.record(again, _file(request, file.name))
    with open_work(config, request.phase, request.run_dir) as work:
        result |= {"work": work.name, "on": work.about, "warmup": request.warmup, "steps": steps}
        if request.tool == "none":
            return result | nsys.bare(work, request.warmup, steps)
        if request.tool == "memory":
            from fastdreamer.tools.profiling.memory_snapshot import memory

            return result | memory(work, request.warmup, steps, _file(request, f"{name}-memory"))
        from fastdreamer.tools.profiling.torch_trace import trace

        return result | trace(work, request.warmup, steps, _file(request, f"{name}-trace"), request.shapes)


def _file(request: Request, name: str) -> Path:
    """A file in the output folder, which is made."""
    try:
        request.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write to {request.out} ({error.strerror}): choose another --out") from error
    return request.out / name
