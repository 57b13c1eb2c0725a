"""Processes share episodes without overlap, and what a killed one held is free."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fastdreamer.encoding.episode_locks import LOCK_FILE, EpisodeLocks
from fastdreamer.encoding.producers import BoundedQueue, Stopped
from fastdreamer.errors import UserError
from fastdreamer.recordings.recording import Recording

HOLDER = """
import sys
from pathlib import Path
from fastdreamer.encoding.episode_locks import EpisodeLocks
with EpisodeLocks(Path(sys.argv[1])) as claims:
    print(*(name for name in sys.argv[2:] if claims.take(name)), flush=True)
    sys.stdin.read()
    with claims.manifest(), claims.leave() as is_last:
        print("last" if is_last else "not last", flush=True)
"""


def start(store: Path, *names: str) -> tuple[subprocess.Popen[str], list[str]]:
    """Another process that locks what it can of `names` and holds it; and what it got."""
    command = [sys.executable, "-c", HOLDER, str(store), *names]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout
    return process, process.stdout.readline().split()


def recordings(*names: str) -> list[Recording]:
    return [Recording(Path(name), name, "env") for name in names]


def test_an_episode_has_one_owner(tmp_path: Path) -> None:
    first, got = start(tmp_path, "a", "b")
    assert got == ["a", "b"]
    with EpisodeLocks(tmp_path) as locks:
        assert [locks.take(name) for name in ("a", "b", "c")] == [False, False, True]
        second, got = start(tmp_path, "a", "c", "d")
        assert got == ["d"]
        locks.give_back("c")
        third, got = start(tmp_path, "c")
        assert got == ["c"]
    for process in (first, second, third):
        process.kill()
        process.wait()


def test_what_a_killed_process_held_is_taken_over(tmp_path: Path) -> None:
    process, _ = start(tmp_path, "b")
    with EpisodeLocks(tmp_path) as locks:
        names = locks.each(recordings("a", "b", "c"), BoundedQueue(1))
        assert [next(names).name, next(names).name] == ["a", "c"]
        process.kill()
        process.wait()
        assert [recording.name for recording in names] == ["b"]


def test_the_last_to_leave_knows(tmp_path: Path) -> None:
    process, _ = start(tmp_path, "a")
    with EpisodeLocks(tmp_path) as locks, locks.manifest(), locks.leave() as is_last:
        assert not is_last
    assert process.communicate("")[0].split() == ["last"]
    with EpisodeLocks(tmp_path) as locks, locks.manifest(), locks.leave() as is_last:
        assert is_last
    assert os.listdir(tmp_path) == [LOCK_FILE]


def test_no_more_are_held_than_was_said(tmp_path: Path) -> None:
    with EpisodeLocks(tmp_path, most=2) as locks:
        queue = BoundedQueue(1)
        names = locks.each(recordings("a", "b", "c"), queue)
        next(names), next(names)
        locks.give_back("a")
        assert next(names).name == "c"
        with EpisodeLocks(tmp_path, most=2) as again:  # a third has to wait, until the consumer is gone
            names = again.each(recordings("a", "b", "c"), queue)
            next(names), next(names)
            queue.stop()
            with pytest.raises(Stopped):
                next(names)


def test_a_place_that_cannot_hold_a_store_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for store in (tmp_path / "file", tmp_path / "file" / "store"):
        with pytest.raises(UserError, match=f"cannot work in {store} .*: choose a folder"), EpisodeLocks(store):
            pass
