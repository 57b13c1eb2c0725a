"""All sessions of a server: at most a few, each with the page that looks at it, freed when nobody comes back."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from fastdreamer.errors import UserError
from fastdreamer.play.messages import Refused
from fastdreamer.play.outbox import Outbox
from fastdreamer.play.ticker import Opened, Ticker
from fastdreamer.system.output import name as shown_name

if TYPE_CHECKING:
    from fastdreamer.play.session import Session

MOST_SESSIONS = 4
KEPT_S = 30.0  # after its page is gone
IDLE_S = 600.0  # without a word of its page
LOOKED_S = 1.0  # between looks at the clock


class Room:
    """A session's place; its ticker is there once the session is made."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.ticker: Ticker | None = None
        self.task: asyncio.Task[None] | None = None
        self.left: float | None = None  # when its page went


class Rooms:
    """The sessions by their secret names. One thread does the work of all, so that torch's threads are not shared.

    Args:
        make: makes a session; its argument counts the sessions.
        say: prints a line.
        kept_s, idle_s: how long a session is kept without its page, and without a word of it.
    """

    def __init__(
        self,
        make: Callable[[int], Session],
        say: Callable[[str], None],
        kept_s: float = KEPT_S,
        idle_s: float = IDLE_S,
    ) -> None:
        self._make, self._say, self._kept_s, self._idle_s = make, say, kept_s, idle_s
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="play")
        self._rooms: dict[str, Room] = {}
        self._ending: set[asyncio.Task[None]] = set()
        self.begun = self.steps = 0

    async def enter(self, name: str | None, outbox: Outbox) -> Room:
        """The page's session, as it left it, or a new one.

        Raises:
            Refused: if there are as many as there may be, each with its page.
        """
        room = self._rooms.get(name or "")
        if room is None:
            name, room = secrets.token_urlsafe(16), self._place()
            self._rooms[name] = room
            await self._open(name, room)
        if room.ticker is None:
            raise Refused("this session is just being made: come again in a moment")
        room.left = None
        room.ticker.attach(outbox, {"session": name})
        return room

    def leave(self, room: Room, outbox: Outbox) -> None:
        """The page is gone; the session waits for it."""
        if room.ticker is not None and room.ticker.detach(outbox):
            room.left = time.monotonic()

    async def watch(self) -> None:
        """Ends sessions that nobody comes back to; runs until it is cancelled."""
        while True:
            await asyncio.sleep(min(LOOKED_S, self._kept_s, self._idle_s))
            now = time.monotonic()
            for name, room in list(self._rooms.items()):
                if room.left is not None and now - room.left > self._kept_s:
                    self._end(name, "its page is gone")
                elif room.ticker is not None and now - room.ticker.heard > self._idle_s:
                    self._end(name, f"nobody did anything for {self._idle_s / 60:.0f} minutes")

    async def close(self) -> None:
        """Ends all sessions; what is being recorded is written."""
        for name in list(self._rooms):
            self._end(name, "the server was stopped")
        while self._ending:
            await asyncio.wait(self._ending)
        self._worker.shutdown()

    def _place(self) -> Room:
        """Room for one more session, at once: that of the page that is gone longest, if need be."""
        if len(self._rooms) >= MOST_SESSIONS:
            left = {name: room.left for name, room in self._rooms.items() if room.left is not None}
            if not left:
                raise Refused(f"{MOST_SESSIONS} sessions are open, which is the most: close one of their tabs")
            self._end(min(left, key=lambda name: left[name]), "it gave way to a new one")
        self.begun += 1
        return Room(self.begun)

    async def _open(self, name: str, room: Room) -> None:
        def opened() -> Opened:
            session = self._make(room.number)
            return Opened(session, session.describe(), session.view())

        try:
            found = await asyncio.get_running_loop().run_in_executor(self._worker, opened)
        except UserError as error:
            self._rooms.pop(name, None)
            raise Refused(str(error)) from error
        except BaseException:
            self._rooms.pop(name, None)
            raise
        room.ticker = Ticker(found, self._worker, lambda error: self._end(name, _bug(error)))
        room.left = time.monotonic()  # until its page has it
        if name not in self._rooms:  # the server was stopped meanwhile
            self._finish(room, "the server was stopped")
            raise Refused("the server was stopped")
        room.task = asyncio.get_running_loop().create_task(room.ticker.run())
        self._say(f"session {room.number} begins")

    def _end(self, name: str, why: str) -> None:
        room = self._rooms.pop(name, None)
        if room is not None and room.ticker is not None:
            self._finish(room, why)

    def _finish(self, room: Room, why: str) -> None:
        task = asyncio.get_running_loop().create_task(self._close(room, why))
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def _close(self, room: Room, why: str) -> None:
        assert room.ticker is not None
        ticker = room.ticker
        if ticker.outbox is not None:
            ticker.outbox.end(f"the session has ended: {why}")
        if room.task is not None:
            room.task.cancel()
        self.steps += ticker.steps
        problem = ""
        try:
            await asyncio.get_running_loop().run_in_executor(self._worker, ticker.session.close)
        except Exception as error:  # a full disk, for one; the other sessions go on
            problem = f"; closing it failed: {error}"
        self._say(shown_name(f"session {room.number} ends after {ticker.steps} steps: {why}{problem}"))


def _bug(error: Exception) -> str:
    return f"unexpected {type(error).__name__}: {' '.join(str(error).split())[:200]}"
