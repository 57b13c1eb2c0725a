"""Libraries that FastDreamer wants, in which versions, and by which extra: read from its own declaration.

And the places from which a module would come: all on the search path that have it, every version that is installed.
"""

from __future__ import annotations

import importlib.machinery
import importlib.metadata
import operator
import os
import platform
import re
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fastdreamer
from fastdreamer.errors import UserError
from fastdreamer.system.advice import PROGRAM, pip

PACKAGE = Path(fastdreamer.__file__).resolve().parent
DEVELOPMENT = "dev"
LINE = re.compile(r"([A-Za-z0-9][\w.-]*)\s*(?:\[[^]]*])?\s*\(?([^;)]*)\)?\s*(?:;(.*))?$")
EXTRA = re.compile(r"""extra\s*==\s*['"]([\w-]+)['"]""")
CLAUSE = re.compile(r"\s*(>=|<=|==|!=|>|<)\s*(\d+(?:\.\d+)*)\s*")
OPERATORS: dict[str, Callable[[tuple[int, ...], tuple[int, ...]], bool]] = {
    ">=": operator.ge, "<=": operator.le, "==": operator.eq, "!=": operator.ne, ">": operator.gt, "<": operator.lt,
}  # fmt: skip


@dataclass(frozen=True)
class Requirement:
    """A library: its name in lower case with dashes, the versions that are accepted, the extra that brings it."""

    name: str
    versions: str
    extra: str = ""

    @property
    def pip(self) -> str:
        """The requirement as pip takes it."""
        return f"{self.name}{self.versions}"


@dataclass(frozen=True)
class Declaration:
    """What FastDreamer says about itself.

    Attributes:
        python: accepted versions of Python.
        libraries: the core's, then those of the extras for users, each once.
        is_checkout: the code that runs is a checkout, not an installed wheel.
    """

    python: str
    libraries: tuple[Requirement, ...]
    is_checkout: bool

    def install(self, requirement: Requirement) -> str:
        """The line that installs a library that is not there."""
        if not requirement.extra:
            return pip(requirement.pip)
        where = ("-e", str(PACKAGE.parent)) if self.is_checkout else (PROGRAM,)
        return pip(*where[:-1], f"{where[-1]}[{requirement.extra}]")


def declaration() -> Declaration:
    """Read the declaration of the code that runs: its pyproject.toml in a checkout, else what its wheel says.

    Raises:
        UserError: if there is neither, or Python is too old to read them.
    """
    table = _project(PACKAGE.parent / "pyproject.toml")
    if table:
        extras = table.get("optional-dependencies", {})
        lines = [(line, "") for line in table["dependencies"]]
        lines += [(line, extra) for extra, wanted in extras.items() for line in wanted]
        return Declaration(table["requires-python"], _each_once(lines), True)
    try:
        metadata = importlib.metadata.metadata("fastdreamer")
    except importlib.metadata.PackageNotFoundError:
        raise UserError(f"{PACKAGE} is neither in a checkout nor installed: install FastDreamer with pip") from None
    said = [(line, EXTRA.search(line)) for line in metadata.get_all("Requires-Dist") or []]
    lines = [(line, extra[1] if extra else "") for line, extra in said]
    return Declaration(metadata["Requires-Python"] or "", _each_once(lines), False)


def accepts(versions: str, found: str) -> bool:
    """Whether a version is among those accepted; what stands behind its numbers (`rc1`, `+cpu`) does not count."""
    given = _numbers(found)
    return all(
        OPERATORS[clause[1]](*_padded(given, _numbers(clause[2])))
        for part in versions.split(",")
        if (clause := CLAUSE.fullmatch(part))
    )


def plain(name: str) -> str:
    """A distribution's name as all its spellings are compared."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _project(file: Path) -> dict[str, Any]:
    """The table of a checkout; empty where there is none."""
    try:
        import tomllib
    except ImportError:
        raise UserError(f"this is Python {platform.python_version()}: FastDreamer needs 3.11 or newer") from None
    if not file.is_file():
        return {}
    table: dict[str, Any] = tomllib.loads(file.read_text(encoding="utf-8")).get("project", {})
    return table if table.get("name") == "fastdreamer" else {}


def _each_once(lines: Iterable[tuple[str, str]]) -> tuple[Requirement, ...]:
    """The libraries for this kind of machine, without what only the development needs."""
    found: dict[str, Requirement] = {}
    for line, extra in lines:
        match = LINE.match(line)
        if match is None or extra == DEVELOPMENT or not _is_for_this_machine(match[3] or ""):
            continue
        name = plain(match[1])
        if name == "fastdreamer" or (name in found and not found[name].extra):
            continue
        # Of several extras the last: `engines` is enough for what `cuda` brings too.
        found[name] = Requirement(name, match[2].replace(" ", ""), extra)
    return tuple(found.values())


def _is_for_this_machine(marker: str) -> bool:
    wants_linux, wants_x86 = "linux" in marker, "x86_64" in marker
    return (sys.platform == "linux" or not wants_linux) and (platform.machine() == "x86_64" or not wants_x86)


def _numbers(version: str) -> tuple[int, ...]:
    match = re.match(r"\d+(?:\.\d+)*", version.strip())
    return tuple(int(number) for number in match[0].split(".")) if match else ()


def _padded(first: tuple[int, ...], second: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    width = max(len(first), len(second))
    return first + (0,) * (width - len(first)), second + (0,) * (width - len(second))


SUFFIXES = (".py", *importlib.machinery.EXTENSION_SUFFIXES)


def places(module: str) -> list[Path]:
    """Files and folders that `import module` could take, in the order in which they are found; the first wins.

    A folder without `__init__.py` is none: Python takes it only where nothing else has the name.
    """
    top = module.partition(".")[0]
    found = []
    for folder in search_path():
        package = folder / top / "__init__.py"
        if package.is_file():
            found.append(package.parent)
            continue
        found += [file for suffix in SUFFIXES if (file := folder / f"{top}{suffix}").is_file()][:1]
    return found


def in_front_of_python() -> list[Path]:
    """Files and folders that hide a module of Python itself: `timeit.py` beside a script is enough to break torch."""
    own = Path(os.path.realpath(os.__file__)).parent
    found = []
    for folder in search_path():
        if folder == own:
            break
        with suppress(OSError):  # a folder that may not be read
            found += [path for path in sorted(folder.iterdir()) if _module_name(path) in sys.stdlib_module_names]
    return found


def installed_versions(distribution: str) -> list[str]:
    """Versions of a distribution that the search path holds, each once, the first found first."""
    folders = [str(folder) for folder in search_path()]
    found = importlib.metadata.distributions(name=distribution, path=folders)
    return list(dict.fromkeys(_version(one) for one in found))


def search_path() -> list[Path]:
    """The folders of `sys.path`, each once, whatever it is called there."""
    real = (Path(os.path.realpath(entry or os.getcwd())) for entry in sys.path)
    return [folder for folder in dict.fromkeys(real) if folder.is_dir()]


def _module_name(path: Path) -> str:
    if path.suffix == ".py" and path.is_file():
        return path.stem
    return path.name if (path / "__init__.py").is_file() else ""


def _version(distribution: importlib.metadata.Distribution) -> str:
    try:
        return distribution.metadata["Version"] or "unknown"
    except Exception:  # half an uninstall leaves a folder without its file
        return "unknown"


def is_installed_place(place: Path) -> bool:
    """Whether pip put it there."""
    return bool({"site-packages", "dist-packages"} & set(place.parts))
