"""What goes wrong that no code expected, as one line: trouble of the disk or memory, or a bug of ours."""

from __future__ import annotations

import argparse
import errno
import os
import signal
import sys
from pathlib import Path

from fastdreamer import __version__
from fastdreamer.system.advice import again, command

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
