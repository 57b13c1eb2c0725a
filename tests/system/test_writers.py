"""Several processes that write the same place, and those that are killed: what is there is whole."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from fastdreamer.system import leftovers
from fastdreamer.system.files import atomic_directory, write_atomic

WRITER = """
import os, sys, time; from pathlib import Path; from fastdreamer.system import leftovers
from fastdreamer.system.files import atomic_directory
with atomic_directory(Path(sys.argv[1]), replace=True) as folder:
    (folder / "of").write_text("the child")
    print("ready", flush=True)
    sys.stdin.readline()
"""


@contextmanager
def writer(final: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process in the middle of writing a folder; a line on its stdin lets it finish."""
    command = [sys.executable, "-c", WRITER, str(final)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        try:
            yield process
        finally:
            process.kill()


def other_machine(number: int, signal: int) -> None:
    raise ProcessLookupError


NAMES = ("plain", "cave [5-9] {a}*?", "n" * 250, "caf\u00e9'\n\"")


@pytest.mark.parametrize("name", NAMES)
def test_what_a_living_writer_anywhere_works_on_stays_and_what_a_killed_one_left_goes(tmp_path, monkeypatch, name):
    final = tmp_path / name
    with writer(final) as process:
        with monkeypatch.context() as patch:
            patch.setattr(os, "kill", other_machine)
            with atomic_directory(final, replace=True) as folder:
                (folder / "of").write_text("the parent")
        assert (final / "of").read_text() == "the parent" and len(list(tmp_path.iterdir())) == 2
        process.kill()
        process.wait()
        with atomic_directory(final, replace=True):
            pass
    assert list(tmp_path.iterdir()) == [final] and list(final.iterdir()) == []


@pytest.mark.parametrize("replace", [True, False])
@pytest.mark.parametrize("existed", [True, False])
def test_of_two_writers_of_a_folder_both_end_well_and_the_second_keeps_what_is_there(
    tmp_path, capsys, replace, existed
):
    final = tmp_path / "final"
    if existed and not replace:
        return
    if existed:
        final.mkdir()
        (final / "old").write_text("")
    with writer(final) as process:
        assert process.stdin is not None
        with atomic_directory(final, replace) as folder:
            (folder / "of").write_text("the parent")
            process.stdin.write("go\n")
            process.stdin.flush()
            assert process.wait(60) == 0
    assert (final / "of").read_text() == "the child" and list(tmp_path.iterdir()) == [final]
    assert "another process" in capsys.readouterr().err


def test_a_writer_killed_at_any_moment_leaves_a_whole_file(tmp_path):
    code = """
import sys; from pathlib import Path; from fastdreamer.system import leftovers
from fastdreamer.system.files import write_atomic
for i in range(10**9): write_atomic(Path(sys.argv[1]), bytes([i % 256]) * 8_000_000)
"""
    path = tmp_path / "file"
    for wait in (0.05, 0.08, 0.11, 0.14):
        process = subprocess.Popen([sys.executable, "-c", code, str(path)])
        while not path.exists() and process.poll() is None:
            time.sleep(0.01)
        time.sleep(wait)
        assert process.poll() is None
        process.kill()
        process.wait()
        content = path.read_bytes()
        assert len(content) == 8_000_000 and content.count(content[:1]) == len(content)
    write_atomic(path, b"last")
    assert list(tmp_path.iterdir()) == [path], "what the killed ones left is gone"


def test_a_folder_that_is_replaced_is_never_missing_and_a_kill_at_any_moment_leaves_a_whole_one(tmp_path):
    code = """
import sys; from pathlib import Path; from fastdreamer.system import leftovers
from fastdreamer.system.files import atomic_directory
for i in range(10**9):
    with atomic_directory(Path(sys.argv[1]), replace=True) as folder:
        for name in "ab":
            (folder / name).write_text(str(i) * 1000)
"""
    final = tmp_path / "final [1]"
    for wait in (0.1, 0.17, 0.23):
        process = subprocess.Popen([sys.executable, "-c", code, str(final)])
        while not final.exists() and process.poll() is None:
            time.sleep(0.01)
        end = time.monotonic() + wait
        while time.monotonic() < end:
            assert final.is_dir() and process.poll() is None
        process.kill()
        process.wait()
        assert (final / "a").read_text() == (final / "b").read_text() != ""
    with atomic_directory(final, replace=True):
        pass
    assert list(tmp_path.iterdir()) == [final]


def test_two_writers_of_a_file_never_mix(tmp_path):
    path = tmp_path / "file"
    whole = {bytes([i]) * 300_000 for i in range(4)}
    with ThreadPoolExecutor(len(whole)) as pool:
        written = [pool.submit(write_atomic, path, data) for _ in range(30) for data in whole]
        while not all(each.done() for each in written):
            assert not path.exists() or path.read_bytes() in whole
    assert [each.exception() for each in written] == [None] * len(written)
    write_atomic(path, b"last")
    assert path.read_bytes() == b"last" and list(tmp_path.iterdir()) == [path]


def test_a_new_file_that_another_writer_takes_for_a_leftover_is_not_lost(tmp_path, monkeypatch):
    path, temporary = tmp_path / "file", tmp_path / ".file.tmp"
    lock, remove, writer = leftovers.lock, leftovers.remove, threading.current_thread()
    is_removing, writes_on, is_removed = threading.Event(), threading.Event(), threading.Event()
    other = threading.Thread(target=lambda: leftovers.sweep(tmp_path))

    def locked(handle, kind):
        if threading.current_thread() is writer and not is_removing.is_set() and temporary.exists():
            other.start()  # between the file and its lock
            assert is_removing.wait(60)
        return lock(handle, kind)

    def removed(path):
        is_removing.set()
        writes_on.wait(0.5)  # a writer that is right waits for this one, and does not come so far
        remove(path)
        is_removed.set()

    def replaced(old, new):
        writes_on.set()
        assert is_removed.wait(60)
        rename(old, new)

    rename = os.replace
    monkeypatch.setattr(leftovers, "lock", locked)
    monkeypatch.setattr(leftovers, "remove", removed)
    monkeypatch.setattr(os, "replace", replaced)
    write_atomic(path, b"all of it")
    other.join()
    assert path.read_bytes() == b"all of it" and list(tmp_path.iterdir()) == [path]
