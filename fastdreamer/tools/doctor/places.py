"""Places from which a module would come: all on the search path that have it, and every version that is installed."""

from __future__ import annotations

import importlib.machinery
import importlib.metadata
import os
import sys
from contextlib import suppress
from pathlib import Path

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
