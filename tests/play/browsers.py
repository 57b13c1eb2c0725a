"""A server in a thread of this process."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from fastdreamer.play.server import PlayServer


@contextmanager
def serving(make: Callable[[int], Any], **settings: Any) -> Iterator[PlayServer]:
    """Its lines are in `server.lines`."""
    lines: list[str] = []
    server = PlayServer(make, port=settings.pop("port", 0), say=lines.append, **settings)
    server.lines = lines  # type: ignore[attr-defined]
    thread = threading.Thread(target=lambda: asyncio.run(server.serve()), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.stop()
        thread.join(60)
        assert not thread.is_alive(), "the server does not end"
