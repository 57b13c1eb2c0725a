"""What is under way to one page: lines in their order, and at most two views, the newest ones."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

MOST_UNDER_WAY = 2
MOST_LINES = 64

Sender = Callable[[str | bytes], Awaitable[None]]


class Outbox:
    """Sends to one page, no faster than it draws: a newer view replaces the one that waits.

    Attributes:
        ended: the last line, once there is one.
    """

    def __init__(self, send: Sender) -> None:
        self._send = send
        self._lines: deque[str | bytes] = deque()
        self._waiting: tuple[int, Callable[[], bytes]] | None = None
        self._sent, self._late = 0, ""
        self._under_way: deque[int] = deque()
        self._changed = asyncio.Event()
        self.ended: str | None = None

    def put(self, message: str | bytes) -> None:
        """A message that must arrive; where too many wait, the page does not read, and the oldest goes."""
        if len(self._lines) >= MOST_LINES:
            self._lines.popleft()
        self._lines.append(message)
        self._changed.set()

    def show(self, number: int, make: Callable[[], bytes]) -> None:
        """A view, packed when it is sent, in place of one that still waits."""
        self._waiting = number, make
        self._changed.set()

    def amend(self, number: int, make: Callable[[], bytes], late: Callable[[], str]) -> None:
        """What came late of a view: `make` packs all of it where it still waits; where it went, `late` follows."""
        if self._waiting is not None and self._waiting[0] == number:
            self._waiting = number, make
        elif self._sent == number:
            self._late = late()
        self._changed.set()

    def seen(self, number: int) -> None:
        """The page has drawn this view, and so all before it."""
        while self._under_way and self._under_way[0] <= number:
            self._under_way.popleft()
        self._changed.set()

    def end(self, line: str) -> None:
        """The last thing that is sent."""
        self.ended = self.ended or line
        self._changed.set()

    async def run(self) -> str:
        """Send until the end; returns its line."""
        while True:
            self._changed.clear()
            while self._lines:
                await self._send(self._lines.popleft())
            if self.ended is not None:
                return self.ended
            if self._waiting is not None and len(self._under_way) < MOST_UNDER_WAY:
                (number, make), self._waiting = self._waiting, None
                self._under_way.append(number)
                self._sent, self._late = number, ""
                await self._send(make())
                continue
            if self._late:
                late, self._late = self._late, ""
                await self._send(late)
                continue
            await self._changed.wait()
