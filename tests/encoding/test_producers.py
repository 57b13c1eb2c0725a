"""Stages run at once, within their memory, and end however they are left."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from fastdreamer.encoding.producers import BoundedQueue, Producers, Stopped, Writer

BEFORE: set[threading.Thread] = set()


@pytest.fixture(autouse=True)
def _threads_before() -> None:
    BEFORE.clear()
    BEFORE.update(threading.enumerate())


def new_threads() -> set[threading.Thread]:
    """Those that run and did not when the test began: other tests leave some of their libraries'."""
    return set(threading.enumerate()) - BEFORE


def items(count: int):
    return lambda queue: iter(range(count))


def test_every_item_is_worked_on_once_and_its_results_come_in_its_order() -> None:
    def work(item: int, queue: BoundedQueue) -> None:
        for part in range(3):
            queue.reserve(10)
            queue.put((item, part), 10)

    with Producers(items(50), work, 4, 35) as producers:
        results = list(producers)
    assert len(results) == 150 and set(results) == {(i, p) for i in range(50) for p in range(3)}
    for item in range(50):
        assert [part for found, part in results if found == item] == [0, 1, 2]
    assert not new_threads()


def test_producers_work_while_the_consumer_does() -> None:
    """The consumer holds item 0 until item 1 has been started: without overlap this waits in vain."""
    started = [threading.Event() for _ in range(3)]

    def work(item: int, queue: BoundedQueue) -> None:
        started[item].set()
        queue.reserve(1)
        queue.put(item, 1)

    with Producers(items(3), work, 1, 100) as producers:
        for item in producers:
            assert item == 2 or started[item + 1].wait(10), "the next item waits for the consumer"


@pytest.mark.parametrize("limit", [1, 30, 100])
def test_what_waits_never_exceeds_the_limit(limit: int) -> None:
    held, most, lock = 0, 0, threading.Lock()

    def work(item: int, queue: BoundedQueue) -> None:
        nonlocal held, most
        queue.reserve(10)
        with lock:
            held += 10
            most = max(most, held)
        queue.put(item, 10)

    with Producers(items(60), work, 8, limit) as producers:
        for _ in producers:
            time.sleep(0.002)
            with lock:
                held -= 10
    assert most <= max(limit, 10) and held == 0  # one that is larger than the limit goes alone


def test_what_a_failed_item_reserved_is_free_again() -> None:
    def work(item: int, queue: BoundedQueue) -> None:
        queue.reserve(10)
        queue.release(10)
        queue.put(item)

    with Producers(items(20), work, 2, 10) as producers:
        assert sorted(producers) == list(range(20))


def test_an_error_of_a_producer_is_the_consumers() -> None:
    def work(item: int, queue: BoundedQueue) -> None:
        if item == 2:
            raise ZeroDivisionError("item 2")
        queue.put(item)

    with pytest.raises(ZeroDivisionError, match="item 2"), Producers(items(9), work, 1, 9) as producers:
        list(producers)
    assert not new_threads()


def test_an_error_among_the_items_is_the_consumers() -> None:
    def broken(queue: BoundedQueue) -> Iterator[int]:
        yield 0
        raise ZeroDivisionError("no item 1")

    with pytest.raises(ZeroDivisionError), Producers(broken, lambda item, queue: None, 3, 9) as producers:
        list(producers)


def test_a_consumer_that_leaves_ends_blocked_and_waiting_producers() -> None:
    ended = []

    def work(item: int, queue: BoundedQueue) -> None:
        try:
            for _ in range(100):
                queue.reserve(10)
                queue.put(item, 10)
        except Stopped:
            ended.append(item)
            raise

    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt), Producers(items(4), work, 4, 20) as producers:
        for _ in producers:
            raise KeyboardInterrupt
    assert len(ended) == 4 and time.monotonic() - began < 60
    assert not new_threads()


def test_time_spent_waiting_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """An item is made once it is waited for."""
    asked, get = threading.Semaphore(0), BoundedQueue.get
    monkeypatch.setattr(BoundedQueue, "get", lambda queue: (asked.release(), get(queue))[1])

    def work(item: int, queue: BoundedQueue) -> None:
        assert asked.acquire(timeout=60)
        time.sleep(0.1)
        queue.put(item)

    began = time.perf_counter()
    with Producers(items(3), work, 1, 9) as producers:
        list(producers)
    assert 0.29 < producers.waited <= time.perf_counter() - began


def test_the_writer_writes_everything_in_order_and_waits_for_room() -> None:
    written: list[int] = []

    def write(item: int) -> None:
        time.sleep(0.01)
        written.append(item)

    with Writer(write, ahead=2) as writer:
        for item in range(10):
            writer.put(item)
            assert item - len(written) <= 4  # two wait, one is being written
    assert written == list(range(10)) and writer.waited > 0.05
    assert not new_threads()


def test_an_error_of_the_writer_comes_out_and_never_blocks() -> None:
    def write(item: int) -> None:
        raise OSError("disk full")

    put = []
    with pytest.raises(OSError, match="disk full"), Writer(write, ahead=1) as writer:
        for item in range(1000):
            writer.put(item)
            put.append(item)
            time.sleep(0.001)
    assert len(put) < 900, "only noticed on leaving"
    with pytest.raises(OSError, match="disk full"), Writer(write, ahead=9) as writer:
        writer.put(1)  # noticed on leaving


def test_what_waits_is_written_when_something_else_ends_the_work_but_not_after_a_failed_write() -> None:
    written: list[int] = []
    may_fail = threading.Event()
    may_fail.set()

    def write(item: int) -> None:
        time.sleep(0.02)
        if item == 7:
            assert may_fail.wait(60)
            raise OSError("disk full")
        written.append(item)

    with pytest.raises(ValueError, match="damaged"), Writer(write, ahead=9) as writer:
        for item in range(3):
            writer.put(item)
        raise ValueError("damaged")
    assert written == [0, 1, 2]
    with pytest.raises(OSError, match="disk full"), Writer(write, ahead=9) as writer:
        for item in (6, 7, 8):
            writer.put(item)
    may_fail.clear()
    with pytest.raises(ValueError, match="damaged"), Writer(write, ahead=9) as writer:
        for item in (6, 7, 8):
            writer.put(item)
        may_fail.set()
        raise ValueError("damaged")
    assert written == [0, 1, 2, 6, 6]
    assert not new_threads()
