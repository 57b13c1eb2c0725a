"""A server in a thread of this process."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from fastdreamer.play.server import PlayServer
from play.stand_in import StandIn


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


@pytest.fixture
def stand_ins() -> list[StandIn]:
    """The sessions that the server has made."""
    return []


@pytest.fixture
def server(stand_ins: list[StandIn]) -> Iterator[PlayServer]:
    """One that keeps a session without a page for 0.6 s."""

    def make(number: int) -> StandIn:
        stand_ins.append(StandIn())
        return stand_ins[-1]

    with serving(make, kept_s=0.6) as running:
        yield running
