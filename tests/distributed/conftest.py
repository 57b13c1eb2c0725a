"""One process, two and four: each acts once a session, and tests read what they left."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from .launches import HERE, ROOT, environment, torchrun


def act(folder: Path, ranks: int, *acts: str, script: str = "acts.py") -> None:
    words = [str(HERE / script), str(folder), *acts]
    command = [sys.executable, *words] if ranks == 1 else torchrun(ranks, *words)
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment(), cwd=ROOT)
    assert done.returncode == 0, done.stderr[-6000:]


@pytest.fixture(scope="session")
def acted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of what one, two and four processes did with the debug preset, and two with the crafter preset."""
    folder = tmp_path_factory.mktemp("acts")
    act(folder, 1, "train=debug", "gradients=debug", "train=crafter", "gradients=crafter")
    two = ("gradients=debug", "memory=debug", "faults=debug", "train=debug", "third=17")
    act(folder, 2, *two, "train=crafter", "gradients=crafter")
    act(folder, 1, "third=34")
    act(folder, 4, "gradients=debug", "train=debug", "third=50")
    return folder
