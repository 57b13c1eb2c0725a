"""Worker processes that end when they should: with their parent, however it dies, and never by hanging it.

Processes are spawned, not forked: the parent may hold threads and a GPU. A worker ignores Ctrl-C (its parent decides)
and exits at once when its parent is gone, or once it has run the parent's main module, as spawn does first; a worker
that dies raises in the parent.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any, Self

from fastdreamer.errors import UserError
from fastdreamer.system.cores import count_cores

Handler = Callable[[Any], Any]  # request -> reply, both picklable


class WorkerDied(RuntimeError):
    """A worker process ended, or failed, in the middle of its work."""


class WorkerLost(WorkerDied, UserError):
    """The process is gone or silent (killed, out of memory, hung): one line, for nothing in it can be traced."""


class Worker:
    """One process that makes a handler and answers requests with it, one at a time.

    Args:
        factory: Picklable function that makes the handler, in the worker.
        arguments: Its arguments.
    """

    def __init__(self, factory: Callable[..., Handler], *arguments: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self.pending = 0  # requests without a reply yet
        self.connection, theirs = context.Pipe()
        # The worker watches its parent before it imports what this needs; only the parent's main module is run earlier.
        work = pickle.dumps((factory, arguments))
        self.process = context.Process(target=_serve, args=(theirs, work), daemon=True)
        self.process.start()
        theirs.close()  # or its end would stay open after the worker's death, and a read would wait for ever

    def send(self, request: Any) -> None:
        """Hand over a request; its reply comes from `receive`."""
        try:
            self.connection.send(request)
            self.pending += 1
        except OSError as error:
            raise self._death() from error

    def receive(self, timeout_s: float | None = None) -> Any:
        """Wait for the reply.

        Raises:
            UserError: one raised in the worker.
            WorkerLost: if the worker died, or did not answer in `timeout_s`.
            WorkerDied: if it raised anything else (with its traceback).
        """
        try:
            if timeout_s is not None and not self.connection.poll(timeout_s):
                raise WorkerLost(f"worker process {self.process.pid} did not answer for {timeout_s:.0f} s")
            failure, reply = self.connection.recv()
            self.pending -= 1
        except (EOFError, OSError) as error:
            raise self._death() from error
        if isinstance(failure, UserError):
            raise failure
        if failure is not None:
            raise WorkerDied(f"a worker process failed:\n{failure}")
        return reply

    def close(self) -> None:
        """End the process, now."""
        self.connection.close()
        self.process.terminate()
        self.process.join(5)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()

    def _death(self) -> WorkerLost:
        self.process.join(5)
        return WorkerLost(f"worker process {self.process.pid} died, exit code {self.process.exitcode}")


class WorkerPool:
    """Numbered things shared out in turns among worker processes: `workers`, or one a core, and at most one a thing.

    The processes answer together. Use it as a context manager: leaving it ends them.
    """

    def __init__(self, count: int, workers: int = 0) -> None:
        self._workers: list[Worker] = []
        self._share_out(count, min(workers or count_cores(), count))

    def _share_out(self, count: int, processes: int) -> None:
        self._shares = [list(range(first, count, processes)) for first in range(processes)]
        dealt = [number for share in self._shares for number in share]
        self._order = sorted(range(count), key=dealt.__getitem__)  # of what the shares give one after another

    def _start(self, factory: Callable[..., Handler], arguments: Iterable[tuple[Any, ...]]) -> None:
        """Make a worker for each of `arguments`, or none."""
        try:
            for given in arguments:
                self._workers.append(Worker(factory, *given))
        except BaseException:
            self.close()
            raise

    def _ask(self, requests: Sequence[Any], timeout_s: float | None = None) -> list[Any]:
        """The replies of the first workers, of which each is sent its request."""
        assert self._workers, "the pool is closed"
        workers = self._workers[: len(requests)]
        for worker, request in zip(workers, requests, strict=True):
            worker.send(request)
        return [worker.receive(timeout_s) for worker in workers]

    def close(self) -> None:
        """End the worker processes."""
        for worker in self._workers:
            worker.close()
        self._workers = []

    def __enter__(self) -> Self:
        """The pool itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the pool."""
        self.close()


def map_unordered(
    factory: Callable[..., Handler], arguments: tuple[Any, ...], requests: Iterable[Any], workers: int
) -> Iterator[Any]:
    """Replies to `requests` as they come, from `workers` processes that take the next request when free."""
    pool: list[Worker] = []
    queue = list(reversed(list(requests)))
    try:
        for _ in range(min(workers, len(queue))):
            pool.append(Worker(factory, *arguments))
        busy = {worker.connection: worker for worker in pool}
        for worker in pool:
            worker.send(queue.pop())
        while busy:
            for connection in wait(list(busy)):  # a dead worker's end is ready as well: end of file
                worker = busy[connection]  # type: ignore[index]
                reply = worker.receive()
                if queue:
                    worker.send(queue.pop())
                else:
                    del busy[worker.connection]
                yield reply
    finally:
        for worker in pool:
            worker.close()


def _serve(connection: Connection, work: bytes) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    factory, arguments = pickle.loads(work)
    handler: Handler | None = None
    while True:
        try:
            request = connection.recv()
        except (EOFError, OSError):
            return
        try:
            handler = handler or factory(*arguments)
            answer: tuple[UserError | str | None, Any] = (None, handler(request))
        except UserError as error:
            answer = (error, None)
        except Exception:  # noqa: BLE001 - whatever it is, the parent must hear of it and raise
            answer = (traceback.format_exc(), None)
        try:
            connection.send(answer)
        except OSError:
            return


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
