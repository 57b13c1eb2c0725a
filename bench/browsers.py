"""A real browser without a window, and `fastdreamer play` as a process beside it: for measurements, pictures, tests."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fastdreamer.errors import UserError

FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
NAMES = ("chromium", "chromium-browser", "google-chrome")
VARIABLE = "FASTDREAMER_CHROMIUM"
COMMAND = [sys.executable, "-c", "from fastdreamer.cli import run; run()", "play"]
ENDS_S = 60


def find_browser() -> str | None:
    """The browser's program; None for the one that Playwright has installed itself.

    Raises:
        UserError: with the line that installs one, where there is none.
    """
    found = [os.environ.get(VARIABLE), *map(shutil.which, NAMES)]
    if program := next(filter(None, found), None):
        return program
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        if Path(playwright.chromium.executable_path).exists():
            return None
    raise UserError(f"there is no browser to drive (or name one in {VARIABLE}): apt-get install -y chromium")


@contextmanager
def browser() -> Iterator[Any]:
    """Playwright's handle of a fresh browser, with a profile of its own."""
    from playwright.sync_api import sync_playwright

    program = find_browser()
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=program, args=FLAGS)
        try:
            yield started
        finally:
            started.close()


class Served:
    """`fastdreamer play` with some words, from the line with its address on.

    Attributes:
        lines: what it printed until then.
        address: what a browser opens.
    """

    def __init__(self, *words: str) -> None:
        self.process = subprocess.Popen([*COMMAND, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.lines: list[str] = []
        while not (found := re.search(r"http://\S+", self.lines[-1] if self.lines else "")):
            self.lines.append(self.process.stdout.readline())
            if not self.lines[-1]:
                raise UserError(self.process.communicate()[1].strip() or "fastdreamer play ended at once")
        self.address = found[0]
        self.port = int(self.address.rsplit(":", 1)[1].partition("/")[0])

    def __enter__(self) -> Served:
        return self

    def __exit__(self, *error: object) -> None:
        self.process.kill()
        self.process.communicate()

    def end(self, number: int = signal.SIGINT) -> tuple[int, str, str]:
        """Ask it to end; returns its exit code, and what it printed since."""
        self.process.send_signal(number)
        out, err = self.process.communicate(timeout=ENDS_S)
        return self.process.returncode, out, err
