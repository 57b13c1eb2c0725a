"""What goes wrong that no code expected, as one line: trouble of disk, memory or an import, or a bug of ours."""

from __future__ import annotations

import argparse
import errno
import os
import re
import signal
import sys
from pathlib import Path

from fastdreamer import __version__
from fastdreamer.system.advice import again, command, pip, shell

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


ROOM = "free space, or choose another folder"
ACCESS = "let this account read and write it, or choose another folder"
MENDS = {
    errno.ENOSPC: ROOM,
    errno.EDQUOT: ROOM,
    errno.EFBIG: "the file may not grow further here: raise the limit, or choose another folder",
    errno.EROFS: "choose a folder that can be written to",
    errno.EACCES: ACCESS,
    errno.EPERM: ACCESS,
    errno.EIO: "the disk reports errors: go on from a copy on another one",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ELOOP: "its links lead in a circle: name what they stand for",
    errno.ENOTDIR: "a part of it is a file: name a folder",
    errno.EISDIR: "it is a folder: name a file",
    **dict.fromkeys((errno.EEXIST, errno.ENOTEMPTY), "something else lies there: move it elsewhere"),
    errno.EMFILE: "too many files are open: raise their limit, or lower the numbers of threads and workers",
    errno.ENFILE: "too many files are open on this machine: end something else",
    errno.ESTALE: "the shared disk lost it: mount it again",
}
MEMORY = ("MemoryError", "OutOfMemoryError")


def stop_signals() -> list[signal.Signals]:
    """What asks a process to stop: SIGTERM, SIGINT, and SIGHUP where it is not ignored, as under `nohup`."""
    is_bound = signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN
    return [signal.SIGTERM, signal.SIGINT, *([signal.SIGHUP] if is_bound else [])]


def disk_trouble(error: Exception) -> str:
    """The line for an error of the disk that its user can mend; empty for all else."""
    if not isinstance(error, OSError) or error.errno not in MENDS:
        return ""
    return f"{error.filename or 'a file'}: {error.strerror}; {MENDS[error.errno]}"


def out_of_memory(error: Exception) -> str:
    """The line where memory ran out; empty for all else."""
    if type(error).__name__ not in MEMORY:
        return ""
    reason = str(error).partition("\n")[0] or "the machine has no more"
    return f"out of memory ({reason}); what was finished is kept; what fits is said by: {command('plan')}"


def compile_trouble(error: Exception) -> str:
    """The line for code that torch.compile could not make; empty for all else."""
    if not type(error).__module__.startswith(("torch._dynamo.", "torch._inductor.")):
        return ""
    return f"torch.compile failed ({said_first(error)}): use compile=off"


def said_first(error: BaseException) -> str:
    """An error's kind and the beginning of what it says, of which a C compiler's has pages."""
    said = next(iter(str(error).strip().splitlines()), "")
    return f"{type(error).__name__}: {said[:200]}"


def bug(error: Exception, arguments: argparse.Namespace) -> str:
    """The line for an unexpected exception; its report is written to a file, in the run where there is one."""
    reason = " ".join(str(error).split())[:300]
    what = f"unexpected {type(error).__name__}{f': {reason}' if reason else ''}"
    run_dir: Path | None = getattr(arguments, "run_dir", None)
    where = _write_report(error, run_dir)
    phase = getattr(arguments, "phase", None)
    saved = run_dir is not None and any((run_dir / "checkpoints" / f"phase{phase}").glob("step-*"))
    on = again("--resume") if arguments.command == "train" and saved else again()
    return (
        f"{what}; this is a bug of FastDreamer; the full report is in {where}; nothing that was finished is lost, "
        f"and this goes on from it: {on}"
    )


def _write_report(error: Exception, run_dir: Path | None) -> str:
    """The file's path; nobody else may read it, for a traceback can hold anything."""
    import platform
    import tempfile
    import time
    import traceback

    about = f"fastdreamer {__version__}, Python {platform.python_version()}, {platform.platform()}\n{again()}\n\n"
    text = about + "".join(traceback.format_exception(error))
    name = f"error-{time.strftime('%Y%m%d-%H%M%S')}-"
    for folder in (run_dir, None):
        if folder is not None and not folder.is_dir():
            continue
        try:
            handle, path = tempfile.mkstemp(".txt", name, folder)
            with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
                file.write(text)
            return path
        except OSError:
            continue
    print(text, file=sys.stderr)
    return "the lines above, for no file could be written"
