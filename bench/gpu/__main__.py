"""Ten minutes on a GPU that are not wasted: tests and benchmarks in order of worth, each in a process of its own.

    PYTHONPATH=.:kernels:engines python -m bench.gpu [--minutes 10] [--out DIR] [--parts NAME,NAME] [--dry-run]

What fails, hangs or takes too long is a row of the table, and the next part begins. `gpu.json` in the folder that is
named at the end has everything; docs/gpu.md says how to read it. Exit 0; 1 where a part failed, hung or timed out; 2
for a user's mistake; 130 where it was stopped.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Sequence

from bench.gpu.plan import Work, parsed, settled
from bench.gpu.reading import BAD
from bench.gpu.runner import Runner
from bench.gpu.table import NAME, table
from fastdreamer.errors import UserError
from fastdreamer.system.advice import shell
from fastdreamer.system.files import write_atomic

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def main(given: Sequence[str] | None = None) -> int:
    """The command line."""
    try:
        work = settled(parsed(given))
        print(f"{heading(work)}\n{len(work.parts)} parts, at most {work.minutes:g} minutes", flush=True)
        stop = threading.Event()
        for number in SIGNALS:
            signal.signal(number, lambda *_: stop.set())
        runner = Runner(work, stop, say=lambda line: print(line, flush=True))
        rows = runner.run()
        shown = f"{heading(work)}\n\n{table(rows)}"
        write_atomic(work.out / "gpu.txt", f"{shown}\n".encode())
    except UserError as error:
        print(f"bench.gpu: {error}", file=sys.stderr)
        return 2
    sent = f"everything is in {shell(work.out / NAME)}"
    print(f"\n{sent}\n\n{shown}", flush=True)
    return 130 if stop.is_set() else int(any(row.verdict in BAD for row in rows))


def heading(work: Work) -> str:
    """What the results are of, in a line."""
    about = work.about
    libraries = ", ".join(f"{name} {version}" for name, version in about["libraries"].items())
    if work.is_dry:
        return f"dry run on {about['processor']}, no GPU is touched: {libraries}, commit {about['commit']}"
    memory = f"{about['free_gb']:.1f} of {about['memory_gb']:.1f} GiB free"
    busy = "" if about["free_gb"] > 0.9 * about["memory_gb"] else " (something else holds the rest)"
    where = (
        f"{about['card']} (SM {about['capability']}), {memory}{busy}, driver {about['driver']}, CUDA {about['cuda']}"
    )
    return f"{where}: {libraries}, commit {about['commit']}"


if __name__ == "__main__":
    raise SystemExit(main())
