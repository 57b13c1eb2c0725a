"""What is told of a full disk is what could not be written first."""

from __future__ import annotations

from pathlib import Path

import pytest

from fastdreamer import commands
from fastdreamer.errors import UserError
from fastdreamer.settings import load_config


def test_a_full_store_is_not_reported_as_the_runs_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_config("debug", [])
    with commands.kept_configuration(tmp_path, config):
        pass

    def full(path: Path, data: bytes) -> None:
        raise UserError(f"cannot write {path}: the disk is full")

    monkeypatch.setattr(commands, "write_atomic", full)
    told = pytest.raises(UserError, match=r"episodes/a\.safetensors: the disk is full")
    with told, commands.kept_configuration(tmp_path, config):
        full(tmp_path / "store" / "episodes" / "a.safetensors", b"")
