"""Whose fault it is that a library cannot be imported, and the line that mends it: often one that it imports."""

from __future__ import annotations

import importlib.metadata
import re
import sys

from fastdreamer.advice import pip, shell

INSTALLED = ("site-packages", "dist-packages")


def culprit(error: BaseException) -> tuple[str, str]:
    """The package that an import failed for, and the file that failed; both empty where no package is to blame."""
    if name := _missing(error):
        return name, ""
    found, trace = ("", ""), error.__traceback__
    while trace is not None:
        package = str(trace.tb_frame.f_globals.get("__name__", "")).partition(".")[0]
        if package not in sys.stdlib_module_names and package not in ("fastdreamer", "__main__"):
            found = package, trace.tb_frame.f_code.co_filename
        trace = trace.tb_next
    return found


def mend(wanted: str, error: BaseException) -> str:
    """What helps where `import wanted` raised `error`, in a few words and a command."""
    package, file = culprit(error)
    package = package or wanted
    if _missing(error):
        return pip(_distribution(package))
    if file and not any(part in file for part in INSTALLED):
        return f"{shell(file)} has its name: rename it, or start elsewhere"
    return f"{package} is broken: {pip('--force-reinstall', _distribution(package))}"


def _missing(error: BaseException) -> str:
    """The package that is not installed, if that is all."""
    said = re.match(r"No module named '(\w+)", str(error))
    name = (error.name if isinstance(error, ModuleNotFoundError) else None) or (said[1] if said else "")
    return name.partition(".")[0]


def _distribution(package: str) -> str:
    """What pip calls it."""
    return (importlib.metadata.packages_distributions().get(package) or [package])[0]
