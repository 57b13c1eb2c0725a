"""The commands that messages name: every one is made here, quoted for a shell, whole, and safe to paste."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

PROGRAM = "fastdreamer"
REPEATED: dict[str, tuple[str, ...]] = {
    "run_dir": (
        "demo", "study", "inspect", "build-engines", "encode", "plan", "train", "profile", "diagnose", "doctor",
        "eval", "report", "play", "pack",
    ),
    "recordings": ("encode", "fit-tokenizer", "pack"),
    "store": ("encode",),
}  # fmt: skip
"""Flags that a named command repeats from the running one, besides --config, and the commands that take them."""
POSITIONAL = {"inspect": "recordings"}
SECRET = "--token"


class Call(NamedTuple):
    """The running command, as it was called: its words, its flags by their names in Python, its settings."""

    words: Sequence[str] = ()
    flags: Mapping[str, object] = MappingProxyType({})
    overrides: Sequence[str] = ()


_calls: list[Call] = [Call()]  # what reports a mistake knows neither --config nor the settings


@contextmanager
def running(call: Call) -> Iterator[None]:
    """What the user named in this call is named again in every command that takes it."""
    _calls.append(call)
    try:
        yield
    finally:
        _calls.pop()


def command(name: str, *words: object, **flags: object) -> str:
    """A command of ours that goes on where the running one is: with its configuration, settings, run and folders.

    Of the flags `run_dir=path` is `--run-dir path`; True is the bare flag, None leaves it out.
    """
    call = _calls[-1]
    if name in POSITIONAL and not words and call.flags.get(POSITIONAL[name]) is not None:
        words = (call.flags[POSITIONAL[name]],)
    known = [flag for flag, commands in REPEATED.items() if name in commands]
    given = {flag: call.flags[flag] for flag in (*known, "config") if call.flags.get(flag) is not None}
    return plain(name, *call.overrides, *words, **given | flags)


def plain(name: str, *words: object, **flags: object) -> str:
    """A command of ours that takes nothing from the running one; arguments as in `command`."""
    named: list[object] = []
    for flag, value in flags.items():
        option, text = f"--{flag.replace('_', '-')}", str(value)
        if value is True:
            named.append(option)
        elif value is not None:
            named += [f"{option}={text}"] if text.startswith("-") else [option, text]
    folders = [word for word in map(str, words) if "=" not in word]
    settings = [word for word in map(str, words) if "=" in word]
    return shell(PROGRAM, name, *(f"./{word}" if word.startswith("-") else word for word in folders), *named, *settings)


def is_run_known() -> bool:
    """Whether the running command has a run directory, whose configuration names its folders."""
    return _calls[-1].flags.get("run_dir") is not None


def again(*words: object) -> str:
    """The running command once more, with further words; a secret is left out."""
    kept: list[str] = []
    is_secret = False
    for word in _calls[-1].words:
        is_option = word.startswith("-")  # behind a flag that has no value, as that of `play`
        if (not is_secret or is_option) and word.partition("=")[0] != SECRET:
            kept.append(word)
        is_secret = word == SECRET
    return shell(PROGRAM, *kept, *(word for word in words if word not in kept))


def pip(*words: str) -> str:
    """`pip install` with what follows it."""
    return shell("pip", "install", *words)


def extra(name: str) -> str:
    """The line that installs what an extra of FastDreamer brings, from its checkout where it runs from one."""
    root = Path(__file__).resolve().parents[2]
    is_checkout = (root / "pyproject.toml").is_file()
    return pip("-e", f"{root}[{name}]") if is_checkout else pip(f"{PROGRAM}[{name}]")


def shell(*words: object) -> str:
    """Words as a line that bash and zsh read back as they are, in one line and without what a terminal obeys."""
    return " ".join(_quoted(str(word)) for word in words)


def _quoted(word: str) -> str:
    if word.isprintable():
        return shlex.quote(word)
    escaped = (char if char.isprintable() and char not in "\\'" else _bytes(char) for char in word)
    return f"$'{''.join(escaped)}'"


def _bytes(char: str) -> str:
    is_raw = "\udc80" <= char <= "\udcff"  # a byte of a name that is not UTF-8
    return "".join(f"\\x{byte:02x}" for byte in char.encode("utf-8", "surrogateescape" if is_raw else "surrogatepass"))
