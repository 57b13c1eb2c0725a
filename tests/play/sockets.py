"""A page's side of the socket, without a page."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from fastdreamer.play.messages import unpack
from play.stand_in import StandIn

LIMIT_S = 60.0  # what takes so long hangs


class Page:
    """Says and hears messages; every view is told as seen, and what follows one is kept as `late`."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection, self.count = connection, 0
        self.late: list[dict[str, Any]] = []

    def say(self, type: str, **fields: Any) -> None:
        self.connection.send(json.dumps({"type": type, **fields}))

    def hear(self, timeout: float = LIMIT_S) -> tuple[dict[str, Any], bytes]:
        while isinstance(said := self.connection.recv(timeout=timeout), str):
            head = json.loads(said)
            if head["type"] != "late":
                return head, b""
            self.late.append(head)
        head, raw = unpack(said)
        if head["type"] == "view":
            with suppress(ConnectionClosed):  # it may be the last one
                self.say("seen", view=head["view"])
        return head, raw

    def hear_late(self) -> None:
        """What follows the view that was heard last."""
        self.late.append(json.loads(self.connection.recv(timeout=LIMIT_S)))
        assert self.late[-1]["type"] == "late"

    def hears(self, type: str, **fields: Any) -> tuple[dict[str, Any], bytes]:
        """The next message of a type with these fields."""
        while True:
            head, raw = self.hear()
            if head["type"] == type and all(head.get(name) == value for name, value in fields.items()):
                return head, raw

    def act(self, *action: int) -> None:
        self.count += 1
        self.say("act", n=self.count, action=list(action))


@contextmanager
def page(server: Any, session: str | None = None, **options: Any) -> Iterator[Page]:
    """A page that has been greeted; its `about` is the server's hello."""
    address = f"127.0.0.1:{server.port}"
    options.setdefault("origin", f"http://{address}")
    with connect(f"ws://{address}/socket{options.pop('query', '')}", max_size=2**24, **options) as connection:
        found = Page(connection)
        found.say("hello", session=session)
        found.about, _ = found.hear()  # type: ignore[attr-defined]
        yield found


def until(holds: Callable[[], bool]) -> None:
    """Waits for what takes long only where the machine is busy."""
    deadline = time.monotonic() + LIMIT_S
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def is_left(server: Any) -> bool:
    """Whether the server knows of every session that its page is gone."""
    return all(room.left is not None for room in server.rooms._rooms.values())


def still(session: StandIn) -> int:
    """How many steps it took, once it takes no more."""
    counted = -1
    while counted != len(session.acted):
        counted = len(session.acted)
        time.sleep(0.2)
    return counted
