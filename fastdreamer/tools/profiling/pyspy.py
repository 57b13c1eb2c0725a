"""`--tool pyspy`: a flame graph of a whole process, Python and native frames; the stacks of one that is stuck."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from fastdreamer.errors import UserError
from fastdreamer.system.advice import pip, shell
from fastdreamer.tools.profiling.profiled_work import profiled_steps

SVG = "{http://www.w3.org/2000/svg}"
WIDTH = "{http://github.com/jonhoo/inferno}"
TITLE = re.compile(r"(?P<frame>.*) \((?P<samples>[\d,]+) samples?, [\d.]+%\)", re.DOTALL)
LINE = re.compile(r":\d+\)$")


@dataclass
class Frame:
    """A box: `name` with its file, without the line; how many samples passed through it."""

    name: str
    samples: int
    first: int
    children: list[Frame] = field(default_factory=list)

    @property
    def own(self) -> int:
        """Samples that were in it and in nothing that it called."""
        return self.samples - sum(child.samples for child in self.children)

    def walk(self) -> Iterator[Frame]:
        """Walk over this frame and all below it."""
        yield self
        for child in self.children:
            yield from child.walk()

    def find(self, function: str) -> list[Frame]:
        """The topmost frames of a function, by its bare name."""
        if self.name.partition(" (")[0] == function:
            return [self]
        return [found for child in self.children for found in child.find(function)]


def read_flame(file: Path) -> Frame:
    """The tree; its root is all samples."""
    rows: dict[float, list[Frame]] = {}
    for group in ElementTree.parse(file).getroot().iter(f"{SVG}g"):
        title, rect = group.find(f"{SVG}title"), group.find(f"{SVG}rect")
        if title is None or rect is None or f"{WIDTH}w" not in rect.attrib:
            continue
        match = TITLE.fullmatch(title.text or "")
        name = LINE.sub(")", match["frame"]) if match else "all"
        frame = Frame(name, int(rect.attrib[f"{WIDTH}w"]), int(rect.attrib[f"{WIDTH}x"]))
        rows.setdefault(float(rect.attrib["y"]), []).append(frame)
    levels = [sorted(rows[y], key=lambda f: f.first) for y in sorted(rows)]
    if levels and [frame.name for frame in levels[-1]] == ["all"]:  # drawn bottom up
        levels.reverse()
    for above, below in zip(levels, levels[1:], strict=False):
        for frame in below:
            parent = next(p for p in above if p.first <= frame.first < p.first + p.samples)
            parent.children.append(frame)
    if levels and len(levels[0]) == 1 and levels[0][0].name == "all":
        return levels[0][0]
    top = levels[0] if levels else []
    return Frame("all", sum(f.samples for f in top), 0, top)


def own_samples(frames: list[Frame]) -> Counter[str]:
    """Samples by function, of its own, in and below the frames."""
    counted: Counter[str] = Counter()
    for frame in frames:
        for below in frame.walk():
            counted[below.name] += below.own
    return +counted


def samples_through(frames: list[Frame]) -> Counter[str]:
    """Samples by function, with what it called; a function that calls itself counts once."""
    counted: Counter[str] = Counter()

    def visit(frame: Frame, above: frozenset[str]) -> None:
        if frame.name not in above:
            counted[frame.name] += frame.samples
        for child in frame.children:
            visit(child, above | {frame.name})

    for frame in frames:
        visit(frame, frozenset())
    return counted


INSTALL = pip("py-spy>=0.4,<0.5")
RATE = 100  # samples a second
TOP = 10
LONGEST = 100
KERNEL = re.compile(r"\w+_kernel\b")
LIBRARY = re.compile(r" \([^() ]+\)$")
MISTAKE = re.compile(r"^fastdreamer: error: (.*)$", re.MULTILINE)
REFUSED = ("permission denied", "operation not permitted", "failed to suspend")


def find_pyspy() -> str:
    """The program: beside this interpreter, or on the PATH.

    Raises:
        UserError: if it is not there; the message has the line that installs it.
    """
    beside = Path(sys.executable).parent / "py-spy"
    found = str(beside) if beside.is_file() else shutil.which("py-spy")
    if found is None:
        raise UserError(f"py-spy is not installed: {INSTALL}")
    return found


def record(words: Sequence[str], file: Path) -> dict[str, Any]:
    """Samples a new process that runs `fastdreamer WORDS` from its start to its end."""
    return _flame(["--", sys.executable, "-m", "fastdreamer", *words], file)


def attach(pid: int, seconds: int, file: Path) -> dict[str, Any]:
    """Samples a running process for a while."""
    _check_runs(pid)
    return _flame(["--duration", str(seconds), "--pid", str(pid)], file)


def dump(pid: int, file: Path) -> dict[str, Any]:
    """Print and write the stack of every thread of a process as it is now.

    Returns:
        threads: a row each, with the innermost function that is ours.
    """
    _check_runs(pid)
    threads = json.loads(_run([find_pyspy(), "dump", "--json", "--native", "--pid", str(pid)], quiet=True))
    text = "\n".join(_stack(thread) for thread in threads)
    print(text)
    file.write_text(text, encoding="utf-8")
    rows = [
        {
            "thread": _name(thread),
            "state": "running" if thread["active"] else "waiting",
            "innermost": _place(thread["frames"][0]) if thread["frames"] else "",
            "ours": next((_place(f) for f in thread["frames"] if "fastdreamer" in (f["filename"] or "")), ""),
        }
        for thread in threads
    ]
    return {"pid": pid, "threads": rows, "files": {"stacks": file}}


def readable(name: str) -> str:
    """A C++ template's name can fill a screen: the kernel that it is made for, and its library, say enough."""
    if len(name) <= LONGEST:
        return name
    kernel, library = KERNEL.search(name), LIBRARY.search(name)
    return f"{kernel[0] if kernel else name[: LONGEST - 30] + '...'}{library[0] if library else ''}"


def _flame(what: Sequence[str], file: Path) -> dict[str, Any]:
    options = ["--native", "--threads", "--function", "--rate", str(RATE), "--format", "flamegraph"]
    _run([find_pyspy(), "record", *options, "--output", str(file), *what])
    if not file.is_file():
        raise UserError(f"py-spy wrote no {file}: the process ended before it was sampled; give it more --steps")
    root = read_flame(file)
    inside = root.find(profiled_steps.__name__) or [root]
    samples = sum(frame.samples for frame in inside)
    own, through = own_samples(inside), samples_through(inside)
    return {
        "samples": root.samples,
        "samples_in_steps": samples,
        "own": [{"function": readable(name), "share": n / samples} for name, n in own.most_common(TOP)],
        "ours": [
            {"function": name, "share": n / samples} for name, n in through.most_common() if "fastdreamer/" in name
        ][: 2 * TOP],
        "files": {"flame graph (open it in a browser)": file},
    }


def _run(command: list[str], quiet: bool = False) -> str:
    """Runs py-spy; its complaints go to stderr, and what it does not find or may not see becomes one line."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    said = done.stderr + done.stdout
    if mistake := MISTAKE.search(done.stderr):  # of the command that was to be sampled
        raise UserError(mistake[1])
    if done.returncode == 0:
        if not quiet:
            print(done.stderr, file=sys.stderr, end="")
        return done.stdout
    if any(words in said.lower() for words in REFUSED):
        raise UserError(
            "py-spy may not look into that process: run it as the same user or root; in a container add "
            f"--cap-add SYS_PTRACE; or allow it with: {shell('sudo', 'sysctl', 'kernel.yama.ptrace_scope=0')}"
        )
    reason = next((line for line in said.splitlines() if line.startswith("Error")), said.strip()[-300:])
    raise UserError(f"py-spy failed: {reason}")


def _check_runs(pid: int) -> None:
    """Refuse a process that does not run: on Linux every running one has a folder in /proc."""
    if Path("/proc/self").exists() and not Path(f"/proc/{pid}").exists():
        raise UserError(f"there is no process {pid}")


def _name(thread: dict[str, Any]) -> str:
    is_main = thread.get("os_thread_id") == thread.get("pid")
    return thread.get("thread_name") or ("main thread" if is_main else f"{thread['thread_id']:#x}")


def _stack(thread: dict[str, Any]) -> str:
    state = "running" if thread["active"] else "waiting"
    lock = ", holds the interpreter's lock" if thread.get("owns_gil") else ""
    head = f"{_name(thread)} ({thread['thread_id']:#x}, {state}{lock})"
    return "\n".join([head, *(f"    {_place(frame)}" for frame in thread["frames"])]) + "\n"


def _place(frame: dict[str, Any]) -> str:
    line = f":{frame['line']}" if frame.get("line") else ""
    file = frame.get("short_filename") or frame.get("filename") or frame.get("module")
    return f"{readable(frame['name'])} ({file}{line})"
