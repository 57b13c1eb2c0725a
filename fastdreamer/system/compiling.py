"""torch.compile for what runs again and again: its limits, its cache on disk, functions that wait for a decision."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec, TypeVar

import torch

from fastdreamer.system.failures import said_first

GRAPHS_PER_FUNCTION = 32
"""torch stops compiling a function after 8 graphs by default; every shape is one here."""
FOLDER = "TORCHINDUCTOR_CACHE_DIR"

P = ParamSpec("P")
R = TypeVar("R")


def compiled(function: Callable[P, R]) -> Callable[P, R]:
    """`function`, compiled whole (a graph break is an error) for each shape."""
    return torch.compile(function, fullgraph=True, dynamic=False)


class Deferred:
    """Switches functions from eager to compiled, all at once, while they are in use.

    Attributes:
        is_on: whether calls are compiled from now on.
        functions: how many functions wait for it.
    """

    def __init__(self) -> None:
        self.is_on, self.functions = False, 0

    def wrapped(self, function: Callable[P, R]) -> Callable[P, R]:
        """`function`, which is compiled at its next call once this is on."""
        self.functions += 1
        fast: list[Callable[P, R]] = []  # torch.compile alone takes a second, so it is asked for when it is needed

        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            if not self.is_on:
                return function(*args, **kwargs)
            if not fast:
                fast.append(compiled(function))
            return fast[0](*args, **kwargs)

        return call

    def turn_on(self) -> str:
        """Compile from now on; returns why that cannot be, or an empty text."""
        if not self.is_on:
            prepare()
            try:
                probed = compiled(lambda x: x + 1)(torch.zeros(2))
            except Exception as error:  # a compiler, its headers or the disk: any of many kinds
                return said_first(error)
            self.is_on = bool(probed.all())
        return ""


def prepare() -> None:
    """Set what compiling needs in this process: room for all shapes, and a cache that knows our own operations."""
    # Crops of three lengths, each with two or three numbers of rows, and the imagination's passes.
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, GRAPHS_PER_FUNCTION)
    if not torch.compiler.config.cache_key_tag:
        torch.compiler.config.cache_key_tag = operations()
    os.environ[FOLDER] = str(cache_folder())


def cache_folder() -> Path:
    """The folder of code compiled for this kind of CPU: in torch's own setting of it, else in the account's cache.

    The account's outlives /tmp. Torch writes its default into the environment as soon as it has asked itself, which is
    nobody's setting.
    """
    from torch._inductor.runtime.cache_dir_utils import default_cache_dir

    kind, told = kind_of_cpu(), os.environ.get(FOLDER)
    if told and Path(told).name == kind:  # a process that compiles has started this one
        return Path(told)
    if told and told != default_cache_dir():
        return Path(told) / kind
    try:
        root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        folder = root / "fastdreamer" / "compiled" / kind
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK | os.X_OK):
            return folder
    except (OSError, RuntimeError):  # no home, or a full or read-only one
        pass
    return Path(default_cache_dir()) / kind


@functools.cache
def kind_of_cpu() -> str:
    """The instruction sets of this CPU, and those of them that torch is told to use.

    Torch does not ask for them when it finds code in its cache, as in a home directory that machines share. Code that
    was made for vectors of 16 numbers gives wrong ones, without a word, where vectors hold 8, and crashes on a CPU that
    lacks an instruction.
    """
    from fastdreamer_engines.spec import local_target

    return f"{local_target(torch.device('cpu'))}-{torch.backends.cpu.get_cpu_capability().lower()}"


def has_compiler(device: torch.device) -> bool:
    """Whether the C compiler is there that compiled code of this device is built with."""
    kind, *known = _compilers(device)
    return any(shutil.which(name) for name in (os.environ.get(kind, known[0]), *known))


def compiler_name(device: torch.device) -> str:
    """The C compiler to install."""
    return _compilers(device)[1]


def _compilers(device: torch.device) -> tuple[str, str, str]:
    """The variable that names the compiler, and those that are looked for."""
    return ("CXX", "g++", "clang++") if device.type == "cpu" else ("CC", "gcc", "clang")


@functools.cache
def operations() -> str:
    """The version of our dispatcher ops: torch caches compiled code on disk, and of an op it knows the name alone."""
    found, digest = importlib.util.find_spec("fastdreamer_kernels"), hashlib.sha256()
    for folder in (found.submodule_search_locations if found is not None else None) or ():
        for file in sorted(Path(folder).glob("*.py")):
            digest.update(file.read_bytes())
    return digest.hexdigest()
