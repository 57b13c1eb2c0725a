"""A rank says where it is; the first that knows why all must end says so, once, and names whom it is about."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import pytest
from torch.distributed import HashStore

from fastdreamer.errors import Ended
from fastdreamer.ranks import heartbeats as module
from fastdreamer.ranks.heartbeats import Gone, Heartbeats, LaunchersStore, born, who
from fastdreamer.ranks.torchrun import place, restarts

Make = Callable[[int], Heartbeats]


@pytest.fixture
def store() -> HashStore:
    return HashStore()


@pytest.fixture
def make(store: HashStore) -> Iterator[Make]:
    """Ranks of three, all in this process."""
    made: list[Heartbeats] = []

    def rank(number: int) -> Heartbeats:
        found = Heartbeats(LaunchersStore(store), number, 3)
        found.errors, found.is_done = io.StringIO(), True  # or it would end this process
        made.append(found)
        return found

    yield rank
    for one in made:
        one.stop()


def beats(*ranks: Heartbeats) -> None:
    """Waits until each has begun two turns, and so has done a whole one."""
    wanted, until = [one._beat + 2 for one in ranks], time.monotonic() + 60
    while any(one._beat < beat for one, beat in zip(ranks, wanted, strict=True)):
        assert time.monotonic() < until
        time.sleep(0.01)


def test_the_first_line_alone_is_printed(make: Make) -> None:
    first, second = make(0), make(1)
    first.post("rank 0 did it", 2)
    first.post("again", 2)
    second.post("rank 1 did it", 1)
    assert first.errors.getvalue() == "fastdreamer: error: rank 0 did it\n" and not second.errors.getvalue()
    for one in (first, second):
        with pytest.raises(Ended) as ended:
            one.wait("never")
        assert ended.value.status == 2


def test_who_is_furthest_behind_is_named(make: Make) -> None:
    ranks = [make(number) for number in range(3)]
    for one, count in zip(ranks, (7, 6, 7), strict=True):
        one.count, one.doing = count, f"in step {count}"
    beats(*ranks)
    assert ranks[0].late(5).status == 2
    (line,) = ranks[0].errors.getvalue().splitlines()
    assert line.startswith("fastdreamer: error: the others waited 5 s (ranks.timeout_s) for rank 1 of 3 (process ")
    assert line.endswith("last heard of in step 6")


def test_a_process_that_is_gone_is_found_at_once(make: Make, store: HashStore) -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    other = who() | {"pid": process.pid, "born": born(process.pid)}
    assert other["born"] and not born(2**22 + 1)
    store.set("who/2", json.dumps(other))
    rank = make(0)
    beats(rank)
    assert rank.ended() is None
    process.kill()  # a zombie, until it is waited for
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    beats(rank)
    assert f"rank 2 of 3 (process {process.pid} on " in rank.errors.getvalue()
    process.communicate()


def test_a_rank_on_another_machine_is_lost_when_it_is_silent(
    make: Make, store: HashStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    passed_s, real = 0.0, time.monotonic
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: real() + passed_s, sleep=time.sleep))
    store.set("who/1", json.dumps(who() | {"host": "elsewhere", "pid": os.getpid()}))
    rank = make(0)
    store.set("beat/1", json.dumps([1, 3, "in step 3"]))
    rank._look_for_the_dead(silent_s=10)
    assert rank.ended() is None
    passed_s += 20
    store.set("beat/1", json.dumps([2, 3, "in step 3"]))
    rank._look_for_the_dead(silent_s=10)
    assert rank.ended() is None
    passed_s += 20
    rank._look_for_the_dead(silent_s=10)
    assert "on elsewhere) is silent; last heard of in step 3" in rank.errors.getvalue()


def test_a_rank_on_another_machine_that_has_not_said_where_it_is_yet_is_waited_for(
    make: Make, store: HashStore
) -> None:
    store.set("who/1", json.dumps(who() | {"host": "elsewhere"}))
    rank = make(0)
    rank._look_for_the_dead()
    assert rank.ended() is None
    beats(rank)


def test_those_that_are_done_are_not_missed(make: Make, store: HashStore) -> None:
    store.set("who/1", json.dumps(who() | {"pid": 2**22 + 1}))
    store.set("done", "1")
    rank = make(0)
    beats(rank)
    assert rank.ended() is None


def test_a_store_that_is_gone_asks_to_stop(make: Make, store: HashStore, monkeypatch: pytest.MonkeyPatch) -> None:
    rank = make(0)

    def refuse(*given: object) -> bool:
        raise RuntimeError("Connection reset by peer")

    class Closed:
        set = get = check = compare_set = refuse

    assert rank.requests == []
    rank.store = LaunchersStore(Closed())  # type: ignore[arg-type]
    beats(rank)
    assert rank.requests == [15]
    with pytest.raises(Gone):
        rank.wait("never")


def test_torchruns_words_are_read() -> None:
    whole = {"RANK": "3", "LOCAL_RANK": "1", "WORLD_SIZE": "4"}
    assert place(whole) == (3, 4) and place(whole | {"WORLD_SIZE": "1"}) == (0, 1)
    for name in whole:
        assert place({key: value for key, value in whole.items() if key != name}) == (0, 1)
    assert place(whole | {"RANK": "x"}) == (0, 1)
    assert restarts({"TORCHELASTIC_RESTART_COUNT": "2"}) == 2 and restarts({}) == 0
