"""A real browser, and a run that was trained for seconds: what it dreams means nothing, but all of it works."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from play.tabs import Tab

STAGES = """
import sys
from pathlib import Path
from fastdreamer.config import load_config
from fastdreamer.encoding.pipeline import encode_recordings
from fastdreamer.envs.record import record
from fastdreamer.run.directory import RunDirectory
from fastdreamer.training.train import train

run = RunDirectory(Path(sys.argv[1]))
config = load_config("debug", sys.argv[2:])
run.path.mkdir(parents=True)
run.write_config(config)
record(config, run.recordings(config))
encode_recordings(config, run.recordings(config), run.store(config))
for phase in (1, 2, 3):
    train(config, run.path, phase)
"""
SETTINGS = (
    "tokenizer.frames_per_latent=1", "tokenizer.window=1", "record.episodes=4", "record.max_steps=60",
    "phase1.steps=10", "phase2.steps=4", "phase3.steps=2",
)  # fmt: skip


@pytest.fixture(scope="session")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory of Crafter with every part, a frame a latent step."""
    folder = tmp_path_factory.mktemp("play") / "run"
    done = subprocess.run(
        [sys.executable, "-c", STAGES, str(folder), *SETTINGS], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return folder


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """A real browser; see `bench.browsers.find_browser`."""
    from bench.browsers import browser

    with browser() as started:
        yield started


@pytest.fixture(scope="session")
def shot(tmp_path_factory) -> Callable[..., None]:
    """Takes screenshots into the folder that FASTDREAMER_SCREENSHOTS names, or a temporary one."""
    folder = Path(os.environ.get("FASTDREAMER_SCREENSHOTS") or tmp_path_factory.mktemp("screenshots"))

    def take(tab: Tab, name: str, width: int = 0) -> None:
        if width:
            tab.page.set_viewport_size({"width": width, "height": 1000})
        tab.page.screenshot(path=folder / f"{name}.png", full_page=True)
        assert (folder / f"{name}.png").stat().st_size > 5000

    return take
