"""Failed imports: whose fault it is that a library cannot be imported, and the line that mends it."""

from __future__ import annotations

import re
import sys

from fastdreamer.system.advice import pip, shell

OURS = "fastdreamer"
INSTALLED = ("site-packages", "dist-packages")


def culprit(error: BaseException) -> tuple[str, str]:
    """The package that an import failed for, and the file that failed; both empty where no package is to blame."""
    if name := _missing(error):
        return name, ""
    found, trace = ("", ""), error.__traceback__
    while trace is not None:
        package = str(trace.tb_frame.f_globals.get("__name__", "")).partition(".")[0]
        if package not in sys.stdlib_module_names and not package.startswith((OURS, "__main__")):
            found = package, trace.tb_frame.f_code.co_filename
        trace = trace.tb_next
    return found


def import_trouble(error: BaseException) -> str:
    """The line for a library that cannot be imported, wherever that was tried; empty for all else."""
    frames, trace = [], error.__traceback__
    while trace is not None:
        module = str(trace.tb_frame.f_globals.get("__name__", "")).partition(".")[0]
        frames.append((module.startswith(OURS), trace.tb_frame.f_code.co_name))
        trace = trace.tb_next
    ours = max((i for i, (is_ours, _) in enumerate(frames) if is_ours), default=-1)
    is_of_import = isinstance(error, ImportError) or any(name == "<module>" for _, name in frames[ours + 1 :])
    package = culprit(error)[0] or (isinstance(error, ImportError) and (error.name or "").partition(".")[0]) or ""
    if not is_of_import or not package or package.startswith(OURS):
        return ""
    reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
    return f"{package} cannot be imported ({reason}): {mend(package, error)}"


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
    """The name that pip has for a package."""
    import importlib.metadata

    return (importlib.metadata.packages_distributions().get(package) or [package])[0]
