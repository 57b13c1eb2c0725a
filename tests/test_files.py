"""Files appear whole or not at all, also when the disk is full or the writer is killed; progress stays readable."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time

import pytest

from fastdreamer import files, progress
from fastdreamer.errors import UserError
from fastdreamer.files import atomic_directory, sha256_file, write_atomic


def dead_process() -> int:
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def full_disk(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_write_replaces_whole_files_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "sub" / "file"
    write_atomic(path, b"one")
    write_atomic(path, b"two")
    assert path.read_bytes() == b"two" and list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_is_named_and_the_old_file_stays(tmp_path, monkeypatch, call):
    path = tmp_path / "file"
    write_atomic(path, b"old")
    monkeypatch.setattr(files.os, call, full_disk)
    with pytest.raises(UserError, match=f"cannot write {path}: the disk is full"):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_a_file_in_the_way_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        write_atomic(tmp_path / "file" / "below", b"")


def test_a_folder_appears_only_when_its_block_ends_well(tmp_path):
    final = tmp_path / "final"
    with atomic_directory(final) as folder:
        (folder / "deep").mkdir()
        (folder / "deep" / "file").write_text("content")
        assert not final.exists()
    assert (final / "deep" / "file").read_text() == "content" and list(tmp_path.iterdir()) == [final]
    with pytest.raises(KeyError), atomic_directory(tmp_path / "other") as folder:
        raise KeyError
    assert list(tmp_path.iterdir()) == [final]


def test_an_existing_folder_is_kept_unless_it_may_be_replaced(tmp_path):
    final = tmp_path / "final"
    final.mkdir()
    (final / "old").write_text("")
    with pytest.raises(UserError, match="already exists"), atomic_directory(final):
        pass
    with pytest.raises(UserError, match="the disk is full"), atomic_directory(final, replace=True):
        full_disk()
    assert (final / "old").exists()
    with atomic_directory(final, replace=True) as folder:
        (folder / "new").write_text("")
    assert [path.name for path in final.iterdir()] == ["new"] and list(tmp_path.iterdir()) == [final]


def test_a_full_disk_inside_the_block_is_the_users_to_mend(tmp_path):
    with pytest.raises(UserError, match="the disk is full"), atomic_directory(tmp_path / "final"):
        raise RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)")
    with pytest.raises(FileNotFoundError), atomic_directory(tmp_path / "final"):
        (tmp_path / "missing").read_text()


def test_leftovers_of_killed_writers_are_cleared_and_an_orphaned_folder_comes_back(tmp_path):
    dead = dead_process()
    (tmp_path / f".final.tmp-{dead}").mkdir()
    (tmp_path / f".final.old-{dead}").mkdir()
    (tmp_path / f".final.tmp-{os.getppid()}").mkdir()
    with pytest.raises(ValueError), atomic_directory(tmp_path / "final", replace=True):
        raise ValueError
    assert {path.name for path in tmp_path.iterdir()} == {"final", f".final.tmp-{os.getppid()}"}


def test_a_writer_killed_at_any_moment_leaves_a_whole_file(tmp_path):
    code = """
import sys; from pathlib import Path; from fastdreamer.files import write_atomic
for i in range(10**9): write_atomic(Path(sys.argv[1]), bytes([i % 256]) * 8_000_000)
"""
    path = tmp_path / "file"
    for wait in (0.05, 0.08, 0.11, 0.14):
        process = subprocess.Popen([sys.executable, "-c", code, str(path)])
        while not path.exists():
            time.sleep(0.01)
        time.sleep(wait)
        assert process.poll() is None
        process.kill()
        process.wait()
        content = path.read_bytes()
        assert len(content) == 8_000_000 and content.count(content[:1]) == len(content)


def test_sha256_is_that_of_the_content(tmp_path):
    (tmp_path / "file").write_bytes(b"abc")
    assert sha256_file(tmp_path / "file").startswith("ba7816bf8f01cfea")


def test_progress_off_a_terminal_is_a_few_plain_lines(capsys, monkeypatch):
    with progress.track("encode", total=1000, unit="frames", start=100) as bar:
        for _ in range(900):
            bar.advance(1, loss=0.5)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("encode: 1,000/1,000 frames, ") and "loss 0.5" in lines[0]
    monkeypatch.setattr(progress._PlainBar, "interval_s", 0.0)
    with progress.track("encode", total=2) as bar:
        bar.advance(1)
        time.sleep(0.01)
    out, err = capsys.readouterr()
    assert "encode: 1/2 steps" in err and "left" in err and "GiB" in err and out == ""


def test_progress_on_a_terminal_is_a_bar(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with progress.track("train", total=10) as bar:
        bar.advance(10, loss=0.25)
    out, err = capsys.readouterr()
    assert "train" in err and "10/10" in err and "loss 0.25" in err and out == ""
