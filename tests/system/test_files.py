"""Files appear whole or not at all, also when the disk is full or the writer was killed."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from fastdreamer.errors import UserError
from fastdreamer.system import files
from fastdreamer.system.files import atomic_directory, sha256_file, write_atomic
from fastdreamer.system.leftovers import sweep


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


@pytest.mark.parametrize("links", [True, False])
def test_a_file_that_may_only_be_new_leaves_what_is_there(tmp_path, monkeypatch, links):
    """Where the disk has links; where it has none, it is replaced: nobody can be asked."""
    path = tmp_path / "file"
    if not links:
        monkeypatch.setattr(files.os, "link", lambda *a: (_ for _ in ()).throw(OSError(errno.EPERM, "no links")))
    write_atomic(path, b"one", only_new=True)
    write_atomic(path, b"two", only_new=True)
    assert path.read_bytes() == (b"one" if links else b"two") and list(tmp_path.iterdir()) == [path]
    assert path.stat().st_nlink == 1
    monkeypatch.setattr(files.os, "link", full_disk)
    with pytest.raises(UserError, match="full"):
        write_atomic(tmp_path / "other", b"x", only_new=True)
    assert list(tmp_path.iterdir()) == [path]


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


@pytest.mark.parametrize("number", ["own", "dead", "random"])
def test_the_only_copy_survives_a_kill_between_two_renames_and_a_failure_after_it(tmp_path, number):
    number = {"own": os.getpid(), "dead": dead_process(), "random": "5f2e8d0a1b3c4d5e"}[number]
    final, only = tmp_path / "a [1]", tmp_path / f".a [1].old-{number}"
    only.mkdir()
    (only / "weights").write_text("all of them")
    (tmp_path / f".a [1].tmp-{number}").mkdir()
    with pytest.raises(UserError, match="the disk is full"), atomic_directory(final, replace=True):
        full_disk()
    assert (final / "weights").read_text() == "all of them" and list(tmp_path.iterdir()) == [final]


@pytest.mark.parametrize("failing", [1, 2])
def test_where_folders_cannot_be_swapped_the_old_one_comes_back(tmp_path, monkeypatch, failing):
    final, calls, rename = tmp_path / "final", [], os.rename
    final.mkdir()
    (final / "old").write_text("")
    monkeypatch.setattr(files, "_exchange", lambda one, other: False)

    def fails(*paths):
        calls.append(paths)
        return full_disk() if len(calls) == failing else rename(*paths)

    with monkeypatch.context() as patch, pytest.raises(UserError), atomic_directory(final, replace=True):
        patch.setattr(os, "rename", fails)
    assert (final / "old").exists() and list(tmp_path.iterdir()) == [final]
    with atomic_directory(final, replace=True):
        pass
    assert list(final.iterdir()) == [] and list(tmp_path.iterdir()) == [final]


def test_a_link_is_replaced_and_what_it_leads_to_stays(tmp_path):
    target = tmp_path / "mine"
    target.mkdir()
    (target / "letter").write_text("dear")
    (tmp_path / "final").symlink_to(target)
    (tmp_path / "file").symlink_to(target / "letter")
    (tmp_path / ".file.tmp").symlink_to(target / "letter")
    write_atomic(tmp_path / "file", b"new")
    with atomic_directory(tmp_path / "final", replace=True):
        pass
    assert (target / "letter").read_text() == "dear" and (tmp_path / "file").read_bytes() == b"new"
    assert {path.name for path in tmp_path.iterdir()} == {"mine", "final", "file"}


def test_a_file_is_not_replaced_by_a_folder(tmp_path):
    (tmp_path / "letter").write_text("dear")
    with pytest.raises(UserError, match="already exists"), atomic_directory(tmp_path / "letter", replace=True):
        pass
    assert (tmp_path / "letter").read_text() == "dear"


def test_names_may_be_as_long_as_the_disk_takes_and_longer_ones_are_named(tmp_path):
    write_atomic(tmp_path / ("n" * 255), b"data")
    with atomic_directory(tmp_path / ("d" * 255)):
        pass
    with pytest.raises(UserError, match="choose a shorter one"):
        write_atomic(tmp_path / ("n" * 256), b"data")


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.EFBIG, "File too large; .* raise that limit \\(of ulimit\\)"),
        (errno.EIO, "the disk fails"),
        (errno.EDQUOT, "the disk is full"),
        (errno.EACCES, "Permission denied; choose another folder or change its permissions"),
    ],
)
def test_the_disks_errors_are_told_apart_whoever_raises_them(tmp_path, monkeypatch, number, words):
    def fails(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    with pytest.raises(UserError, match=words), atomic_directory(tmp_path / "a"):
        raise RuntimeError(f"Error while serializing: I/O error: whatever (os error {number})")
    monkeypatch.setattr(files.os, "fsync", fails)
    with pytest.raises(UserError, match=words):
        write_atomic(tmp_path / "b", b"")
    assert list(tmp_path.iterdir()) == []


def test_a_removed_folder_is_whole_or_gone_and_the_next_sweep_takes_what_a_kill_left(tmp_path, monkeypatch):
    folder = tmp_path / "step"
    folder.mkdir()
    (folder / "manifest").write_text("")
    with monkeypatch.context() as patch:
        patch.setattr(files, "remove", lambda path: None)  # killed here
        files.remove_directory(folder)
    assert not folder.exists() and len(list(tmp_path.iterdir())) == 1
    (tmp_path / ".gitignore").write_text("")
    sweep(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".gitignore"]


def test_sha256_is_that_of_the_content(tmp_path):
    (tmp_path / "file").write_bytes(b"abc")
    assert sha256_file(tmp_path / "file").startswith("ba7816bf8f01cfea")


@pytest.mark.parametrize("make", [lambda path: path.symlink_to("gone"), lambda path: path.write_text("x")])
def test_what_was_retired_and_is_no_folder_is_not_put_back(tmp_path: Path, make: Callable[[Path], object]) -> None:
    make(tmp_path / ".final.old-0123456789abcdef")
    with atomic_directory(tmp_path / "final", replace=True) as folder:
        (folder / "a").touch()
    assert [path.name for path in tmp_path.iterdir()] == ["final"]
