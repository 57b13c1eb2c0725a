"""Libraries that are made up on the spot: a module and what pip would have written about it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

Made = Callable[..., Path]


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Made:
    """`library("name", "1.2", "raise ImportError('no')")` lies on the search path, in a folder of its own."""
    made = 0

    def make(name: str, version: str = "", body: str = "") -> Path:
        nonlocal made
        made += 1
        folder = tmp_path / f"site{made}"
        module = folder / name.replace("-", "_")
        module.mkdir(parents=True)
        (module / "__init__.py").write_text(body)
        if version:
            described = folder / f"{module.name}-{version}.dist-info"
            described.mkdir()
            (described / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        monkeypatch.syspath_prepend(str(folder))
        return folder

    return make
