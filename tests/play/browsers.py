"""A real browser without a window, and a server beside it."""

from __future__ import annotations

import asyncio
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from fastdreamer.play.server import PlayServer

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
NAMES = ("chromium", "chromium-browser", "google-chrome")
INSTALL = "apt-get install -y chromium"


def find_browser() -> str | None:
    """The browser's program; None for the one that Playwright has installed.

    Raises:
        RuntimeError: with the line that installs one, where there is none.
    """
    found = [os.environ.get("FASTDREAMER_CHROMIUM"), *map(shutil.which, NAMES)]
    if program := next(filter(None, found), None):
        return program
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        if os.path.exists(playwright.chromium.executable_path):
            return None
    raise RuntimeError(f"these tests drive a real browser and there is none here; install one: {INSTALL}")


@contextmanager
def browser() -> Iterator[Any]:
    """Playwright's handle of a fresh browser."""
    from playwright.sync_api import sync_playwright

    program = find_browser()
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=program, args=FLAGS)
        try:
            yield started
        finally:
            started.close()


@contextmanager
def serving(make: Callable[[int], Any], **settings: Any) -> Iterator[PlayServer]:
    """A server in a thread of this process; its lines are in `server.lines`."""
    lines: list[str] = []
    server = PlayServer(make, port=settings.pop("port", 0), say=lines.append, **settings)
    server.lines = lines  # type: ignore[attr-defined]
    thread = threading.Thread(target=lambda: asyncio.run(server.serve()), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.stop()
        thread.join(20)
        assert not thread.is_alive(), "the server does not end"
