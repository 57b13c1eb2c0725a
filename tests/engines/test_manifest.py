"""An installed engine is refused when anything about it is not what its manifest says."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from fastdreamer_engines import EngineError
from fastdreamer_engines.manifest import MANIFEST, check_files, check_key, check_private, manifest_bytes, read_manifest


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tmp_path.chmod(0o700)
    (tmp_path / "1x33.plan").write_bytes(bytes(range(256)) * 4)
    (tmp_path / MANIFEST).write_bytes(manifest_bytes(tmp_path, {"key": {"target": "sm86"}, "status": "verified"}))
    return tmp_path


def test_what_was_written_is_read_back_and_passes(folder: Path) -> None:
    manifest = read_manifest(folder)
    assert manifest["key"] == {"target": "sm86"} and manifest["files"]["1x33.plan"]["bytes"] == 1024
    check_files(folder, manifest)
    check_private(folder)


def test_every_flipped_byte_of_the_manifest_is_noticed(folder: Path) -> None:
    path, before = folder / MANIFEST, (folder / MANIFEST).read_bytes()
    original = json.loads(before)["engine"]
    for position in range(len(before)):
        path.write_bytes(before[:position] + bytes([before[position] ^ 1]) + before[position + 1 :])
        try:
            assert read_manifest(folder) == original  # white space between tokens
        except EngineError as error:
            assert "damaged" in str(error)


def test_flipped_missing_and_unknown_files_are_refused(folder: Path) -> None:
    manifest, plan = read_manifest(folder), folder / "1x33.plan"
    data = bytearray(plan.read_bytes())
    data[100] ^= 1
    plan.write_bytes(data)
    with pytest.raises(EngineError, match="1x33.plan is damaged"):
        check_files(folder, manifest)
    plan.rename(folder / "other.plan")
    with pytest.raises(EngineError, match="lacks the file 1x33.plan"):
        check_files(folder, manifest)
    plan.write_bytes(b"")
    with pytest.raises(EngineError, match="unknown file other.plan"):
        check_files(folder, manifest)


def test_another_key_is_named(folder: Path) -> None:
    wanted = {"target": "sm89", "library": "tensorrt_rtx 1.7"}
    with pytest.raises(EngineError, match="target sm86 instead of sm89, library None instead of tensorrt_rtx 1.7"):
        check_key(folder, read_manifest(folder)["key"], wanted)


def test_a_folder_that_others_can_write_to_is_refused(folder: Path) -> None:
    folder.chmod(0o770)
    with pytest.raises(EngineError, match="chmod 700"):
        check_private(folder)
    with pytest.raises(EngineError, match="cannot be read"):
        check_private(folder / "nowhere")


def test_no_manifest_or_another_format_is_refused(folder: Path) -> None:
    (folder / MANIFEST).write_text('{"sha256": "", "engine": {"format": 0}}')
    with pytest.raises(EngineError, match="another version"):
        read_manifest(folder)
    (folder / MANIFEST).unlink()
    with pytest.raises(EngineError, match="no readable manifest"):
        read_manifest(folder)


@pytest.mark.parametrize("mode", [0o777, 0o770])
def test_a_folder_below_one_that_others_can_write_to_is_refused(folder: Path, tmp_path: Path, mode: int) -> None:
    above = tmp_path / "shared"
    root = above / "engines"
    root.mkdir(parents=True)
    root.chmod(0o700)
    above.chmod(0o755)
    check_private(root)
    os.chown(above, -1, 54321) if os.getuid() == 0 else None
    above.chmod(mode if os.getuid() == 0 else 0o777)
    for named in (root, root / ".." / "engines"):
        with pytest.raises(EngineError, match=f"lies below {above}, in which others may put another in its place"):
            check_private(named)
    above.chmod(0o1777)  # as /tmp: nobody renames what is another's
    check_private(root)


def test_a_link_into_a_folder_that_others_can_write_to_is_refused(tmp_path: Path) -> None:
    above, root = tmp_path / "shared", tmp_path / "shared" / "engines"
    root.mkdir(parents=True)
    root.chmod(0o700)
    link = tmp_path / "mine"
    link.symlink_to(root)
    check_private(link)
    above.chmod(0o777)
    with pytest.raises(EngineError, match="lies below .*shared"):
        check_private(link)
