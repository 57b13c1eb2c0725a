"""Asks processes of their own what must be imported to be known; one that crashes or hangs says which task it was.

What is found is a row of the doctor's table: `Component`.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

Verdict = Literal["ok", "missing", "wrong"]


@dataclass(frozen=True)
class Component:
    """Something that a command may need.

    Attributes:
        name: the component's name; a library has the name that pip knows.
        found: what is there, for people.
        verdict: `missing` is not there, and only some commands need it; `wrong` is there and cannot be used as it is.
        mend: the line that mends it; empty where there is nothing to mend.
    """

    name: str
    found: str
    verdict: Verdict = "ok"
    mend: str = ""

    def to_dict(self) -> dict[str, Any]:
        """The component as plain values, for JSON."""
        values = asdict(self)
        return {"part": values.pop("name")} | values


def one_line(error: BaseException | str, most: int = 180) -> str:
    """An error in a line: its type, then its words."""
    kind = "" if isinstance(error, str) else f"{type(error).__name__}: "
    text = kind + " ".join(str(error).split())
    return text.removesuffix(": ") if len(text) <= most else f"{text[: most - 3]}..."


TIMEOUT_S = 60.0
"""The limit of one process: a slow disk makes the first import of torch take half of it."""
RUN = (
    "import sys; path, tasks = sys.argv[1:]; sys.path[:] = path.split('\\n'); sys.argv[1:] = [tasks]; "
    "from fastdreamer.tools.doctor.probe import main; main()"
)


@dataclass(frozen=True)
class Task:
    """One question: its name, what kind it is (`probe.KINDS`), and its arguments."""

    name: str
    kind: str
    arguments: dict[str, Any]


@dataclass(frozen=True)
class Answer:
    """What a task found, or the line that says why it found nothing."""

    value: dict[str, Any]
    error: str = ""


def ask(tasks: Sequence[Task], timeout_s: float | None = None) -> dict[str, Answer]:
    """The answers by name; a process that dies gives its task a bad answer, and another goes on with the rest."""
    limit_s = TIMEOUT_S if timeout_s is None else timeout_s
    answers: dict[str, Answer] = {}
    left = list(tasks)
    while left:
        lines, reason = _run(left, limit_s)
        begun = ""
        for line in lines:
            if "begin" in line:
                begun = line["begin"]
            else:
                answers[line["name"]] = Answer(line.get("answer", {}), line.get("error", ""))
        if begun and begun not in answers:
            answers[begun] = Answer({}, reason)
        elif not begun:  # not even the first task was reached: it would be the same with the others
            answers |= {task.name: Answer({}, reason) for task in left}
        left = [task for task in left if task.name not in answers]
    return answers


def _run(tasks: Sequence[Task], timeout_s: float) -> tuple[list[dict[str, Any]], str]:
    """What a process said, and how it ended if it did not end well."""
    path = "\n".join(os.path.abspath(entry) for entry in sys.path)
    words = json.dumps([[task.name, task.kind, task.arguments] for task in tasks])
    command = [sys.executable, "-I", "-c", RUN, path, words]
    # torch then asks the driver's library whether there is a GPU, and makes no context to find out.
    environment = os.environ | {"PYTORCH_NVML_BASED_CUDA_CHECK": "1"}
    try:
        done = subprocess.run(
            command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout_s, check=False
        )
        said, reason = done.stdout, _ending(done.returncode, done.stderr)
    except subprocess.TimeoutExpired as error:
        said, reason = error.stdout or b"", f"no answer for {timeout_s:.0f} s"
    lines = said.decode(errors="replace").splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")], reason


def _ending(code: int, stderr: bytes) -> str:
    if code < 0:
        return f"its process was ended by {signal.Signals(-code).name}"
    words = stderr.decode(errors="replace").strip().splitlines()
    return f"its process ended with exit code {code}{': ' + words[-1][:160] if words else ''}"
