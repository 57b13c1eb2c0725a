"""Stages that run at once: producers in threads before one consumer, a writer thread after it, all bounded."""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext, suppress
from typing import Any, Generic, Self, TypeVar

from fastdreamer.system.ranges import span

Item = TypeVar("Item")
_END = object()


class Stopped(Exception):
    """The consumer is gone: a producer's next call to its `BoundedQueue` raises this, and the thread ends."""


class BoundedQueue:
    """What a producer hands its results to; they wait in memory, all producers' together up to `limit` bytes."""

    def __init__(self, limit: int) -> None:
        self._limit, self._held = limit, 0
        self._free = threading.Condition()
        self._results: queue.SimpleQueue[tuple[Any, int]] = queue.SimpleQueue()
        self._is_stopped = False

    def reserve(self, size: int) -> None:
        """Wait until `size` bytes may be held; one that is larger than the limit may be held alone.

        A producer reserves before it allocates, and puts that result before it reserves again, so that the consumer
        can always go on.

        Raises:
            Stopped: if the consumer is gone.
        """
        with self._free:
            self._free.wait_for(lambda: self._is_stopped or not self._held or self._held + size <= self._limit)
            self.check()
            self._held += size

    def put(self, result: Any, size: int = 0) -> None:
        """Hand over a result; `size` is what was reserved for it."""
        self.check()
        self._results.put((result, size))

    def check(self) -> None:
        """Raise `Stopped` if the consumer is gone; for long work in between."""
        if self._is_stopped:
            raise Stopped

    def release(self, size: int) -> None:
        """Free `size` reserved bytes: the result was consumed, or never made."""
        if size:
            with self._free:
                self._held -= size
                self._free.notify_all()

    def stop(self) -> None:
        """Stop the producers: their next call raises `Stopped`."""
        with self._free:
            self._is_stopped = True
            self._free.notify_all()

    def get(self) -> tuple[Any, int]:
        """Wait for the next result and return it with its size."""
        return self._results.get()


class Producers(Generic[Item]):
    """Runs `work(item, queue)` for every item of `items(queue)` in threads; iterating gives what they put.

    What a producer raises is raised in the consumer. Use it as a context manager: leaving it ends the threads. The
    interpreter's lock is free while libav decodes, so threads are enough.

    Attributes:
        waited: seconds that the consumer spent waiting for a result.
    """

    def __init__(
        self,
        items: Callable[[BoundedQueue], Iterator[Item]],
        work: Callable[[Item, BoundedQueue], None],
        threads: int,
        limit_bytes: int,
    ) -> None:
        self.waited = 0.0
        self._queue = BoundedQueue(limit_bytes)
        self._todo = items(self._queue)
        self._next = threading.Lock()
        self._work = work
        self._threads = [threading.Thread(target=self._run, name=f"reader-{i}", daemon=True) for i in range(threads)]

    def __enter__(self) -> Self:
        """Start the threads."""
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End the threads."""
        self._queue.stop()
        for thread in self._threads:
            thread.join()

    def __iter__(self) -> Iterator[Any]:
        """The results; what one of them holds is free again when the next is asked for."""
        running = len(self._threads)
        while running:
            began = time.perf_counter()
            with span("wait for frames"):
                result, size = self._queue.get()
            self.waited += time.perf_counter() - began
            if result is _END:
                running -= 1
            elif isinstance(result, BaseException):
                raise result
            else:
                yield result
                del result  # before its bytes are given to somebody else
                self._queue.release(size)

    def _run(self) -> None:
        with suppress(Stopped):
            try:
                while True:
                    with self._next:
                        item = next(self._todo, None)
                    if item is None:
                        return self._queue.put(_END)
                    self._work(item, self._queue)
            except Exception as error:
                if isinstance(error, Stopped):
                    raise
                self._queue.put(error)  # the consumer's to handle


class Writer(Generic[Item]):
    """Calls `write` in a thread, in order; at most `ahead` items wait. Use it as a context manager.

    Leaving it writes what waits, whether or not an exception is on its way: that work is done and paid for. What
    `write` raises is raised by the next `put`, or on leaving, and what waits then is not written.

    Attributes:
        waited: seconds that `put` waited for room.
    """

    def __init__(self, write: Callable[[Item], None], ahead: int) -> None:
        self.waited = 0.0
        self._write, self._ahead, self._has_failed = write, ahead, False
        self._todo: deque[Future[None]] = deque()
        self._thread = ThreadPoolExecutor(1, "writer")

    def put(self, item: Item) -> None:
        """Hand over one item."""
        self._wait(self._ahead)
        self._todo.append(self._thread.submit(self._work, item))

    def __enter__(self) -> Self:
        """The writer itself; the thread starts with the first item."""
        return self

    def __exit__(self, kind: object, error: BaseException | None, at: object) -> None:
        """Write the rest and end the thread; an exception that is on its way goes on as it is."""
        try:
            with suppress(BaseException) if error is not None else nullcontext():
                self._wait(0)
        finally:
            self._thread.shutdown(cancel_futures=True)

    def _work(self, item: Item) -> None:
        if self._has_failed:
            return  # what waited when a write failed
        try:
            self._write(item)
        except BaseException:
            self._has_failed = True
            raise

    def _wait(self, most: int) -> None:
        """Wait until no more than `most` items are left to write; what was raised for one of them is raised here."""
        began = time.perf_counter()
        while self._todo and (self._todo[0].done() or len(self._todo) > most):
            self._todo.popleft().result()
        self.waited += time.perf_counter() - began
