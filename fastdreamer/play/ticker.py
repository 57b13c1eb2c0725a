"""The time of one session: when it steps and what with, in the worker that does all sessions' work.

What a page orders is done in the order it came, and before any tick; a tick that is under way gives way as long as the
dream has not moved. A press is a step at once, though not sooner than `SOONEST_S` after the last one. Its pictures are
shown as soon as they are there, and what the agents think of them follows. While nobody asks, ticks come at the chosen
speed, with what is held. A session that no page looks at stands still.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor
from typing import TYPE_CHECKING, Any, NamedTuple

from fastdreamer.errors import UserError
from fastdreamer.play.messages import (
    Act,
    Choose,
    Filmstrip,
    Fork,
    Hello,
    Hold,
    Message,
    Pause,
    Refused,
    Rewind,
    Seen,
    Single,
    Start,
    pack,
    text,
)
from fastdreamer.play.outbox import Outbox
from fastdreamer.play.urgency import Superseded

if TYPE_CHECKING:
    from fastdreamer.play.moment import View
    from fastdreamer.play.session import Session

SOONEST_S = 1 / 60
MOST_WAITING = 32  # orders that are not done yet
REPEATS = 8.0  # steps a second of what is held while the game waits for keys, where its own clock is not slower
COUNTED_S = 1.0  # over so long steps a second are counted
YOU = "you"


class Opened(NamedTuple):
    """A session with what it says of itself and what it shows, read in the worker."""

    session: Session
    about: dict[str, Any]
    view: View


class Look(NamedTuple):
    """What is left to do of the moment whose pictures are shown."""


class Ticker:
    """Steps one session.

    Args:
        opened: what is stepped, used in the worker alone; what it says of itself; its first view.
        worker: does the work of all sessions, one after another.
        on_bug: called with what went wrong that is no mistake of the page's; the session is over then.

    Attributes:
        outbox: the page that looks at it, or None.
        heard: time at which a page last said something.
    """

    def __init__(self, opened: Opened, worker: Executor, on_bug: Callable[[Exception], None]) -> None:
        self.session, self.about, self._view = opened
        self._worker, self._on_bug = worker, on_bug
        self.rate = min(REPEATS, self.about["fps"] / self.about["c"])
        self.outbox: Outbox | None = None
        self.speed, self.is_paused = 0.0, False
        self.heard = self._last = time.monotonic()
        self.steps = 0
        self._number, self._taken, self._ms = 0, 0, 0.0
        self._orders: deque[Message] = deque()
        self._held: tuple[int, ...] | None = None
        self._is_whole = True
        self._times: deque[float] = deque()
        self._changed = asyncio.Event()

    def attach(self, outbox: Outbox, about: dict[str, Any]) -> None:
        """A page looks at the session from now on; the one that did so before is told."""
        if self.outbox is not None:
            self.outbox.end("this session was opened in another tab")
        self.outbox, self.heard = outbox, time.monotonic()
        state = {"speed": self.speed, "paused": self.is_paused, "n": self._taken}
        outbox.put(text("hello", **about, **self.about, **state))
        self._publish()
        self._changed.set()

    def detach(self, outbox: Outbox) -> bool:
        """The page is gone; False if another one looks at the session now."""
        if self.outbox is not outbox:
            return False
        self.outbox, self._held = None, None
        self._orders.clear()
        return True

    def take(self, message: Message) -> None:
        """What the page says.

        Raises:
            Refused: if it cannot be done now.
        """
        self.heard = time.monotonic()
        if isinstance(message, Hello):
            raise Refused("hello is said once")
        if isinstance(message, Seen):
            if self.outbox is not None:
                self.outbox.seen(message.view)
        elif isinstance(message, Hold):
            self._held = message.action
        elif isinstance(message, Pause):
            self.is_paused = message.on
            self._publish()
        elif isinstance(message, Choose) and message.speed is not None and message[:-1] == (None,) * 4:
            self.speed = message.speed
            self._publish()
        elif len(self._orders) >= MOST_WAITING:
            raise Refused(f"{MOST_WAITING} orders wait already; this one is left out")
        else:
            self._orders.append(message)
        self._changed.set()

    async def run(self) -> None:
        """Step until cancelled, or until something goes wrong."""
        loop = asyncio.get_running_loop()
        try:
            while True:
                last, order = self._last, await self._next()
                if isinstance(order, Look):
                    await self._look(loop)
                    continue
                began = time.monotonic()
                call = self._call(order)
                is_step = order is None or isinstance(order, Act | Single)
                try:
                    found = await loop.run_in_executor(self._worker, call)
                except Superseded:  # a tick gives way
                    self._last = last
                    continue
                except UserError as error:
                    self._say(str(error))
                    self.is_paused |= order is None  # or every tick would say it again
                    found, order = await loop.run_in_executor(self._worker, self.session.view), Fork()
                    is_step = False
                if isinstance(order, Filmstrip):
                    self._show(order.recording, *found)
                    continue
                self._view, self._ms = found, 1e3 * (time.monotonic() - began)
                if is_step:
                    self.steps += 1
                    self._times.append(time.monotonic())
                self._is_whole = found.said.get("agent") is not None
                self._publish()
        except Exception as error:
            self._on_bug(error)

    async def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        """Complete the moment whose pictures are shown, unless a key comes."""
        with contextlib.suppress(Superseded):
            self._view = view = await loop.run_in_executor(self._worker, self.session.complete, self._is_superseded)
            self._is_whole = True
            if self.outbox is not None:
                said = view.said | self._state() | {"view": self._number}
                self.outbox.amend(self._number, lambda: packed(view, said), lambda: text("late", **said))

    async def _next(self) -> Message | Look | None:
        """The next order when it is due, else what is left to do of the moment in sight, else None for a tick."""
        while True:
            self._changed.clear()
            now = time.monotonic()
            if self._orders:
                due = self._last + SOONEST_S if isinstance(self._orders[0], Act | Single) else now
                if due <= now:
                    order = self._orders.popleft()
                    if isinstance(order, Act | Single):
                        self._last = now
                    return order
            elif not self._is_whole:
                return Look()
            elif (rate := self._rate()) > 0:
                due = self._last + 1 / rate
                if due <= now:
                    # A late tick does not push the next ones back, unless it is later than a whole one.
                    self._last = due if now - due < 1 / rate else now
                    return None
            else:
                await self._changed.wait()
                continue
            try:
                await asyncio.wait_for(self._changed.wait(), due - now)
            except TimeoutError:
                continue

    def _rate(self) -> float:
        """Ticks a second now."""
        if self.outbox is None or self.is_paused or self._view.said.get("over"):
            return 0.0
        return self.speed or (self.rate if self._held is not None and self._is_played else 0.0)

    @property
    def _is_played(self) -> bool:
        return bool(self._view.said.get("who") == YOU)

    def _call(self, order: Message | None) -> Callable[[], Any]:
        """What the worker does for an order; a tick for None."""
        session = self.session
        if isinstance(order, Act):
            self._taken = order.n
            if not self._is_played:
                return _refuser(f"{self._view.said.get('who')} plays: choose yourself to act")
            action = order.action
            return lambda: session.step_in_sight(action)
        if isinstance(order, Rewind):
            steps = order.steps
            return lambda: session.rewind(steps)
        if isinstance(order, Fork):
            return session.fork
        if isinstance(order, Start):
            start = order
            return lambda: session.start(seed=start.seed, recording=start.recording, step=start.step)
        if isinstance(order, Choose):
            chosen = order._asdict()
            speed = chosen.pop("speed")
            self.speed = self.speed if speed is None else speed
            return lambda: session.choose(**chosen)
        if isinstance(order, Filmstrip):
            recording = order.recording
            return lambda: session.filmstrip(recording)
        held = self._held if self._is_played else None  # what made the tick due, not what is held once it is its turn
        return lambda: session.step_in_sight(held, self._is_superseded)

    def _is_superseded(self) -> bool:
        return bool(self._orders)

    def _publish(self) -> None:
        if self.outbox is not None:
            self._number += 1
            view, number, said = self._view, self._number, self._state()
            self.outbox.show(number, lambda: packed(view, said | {"view": number}))

    def _state(self) -> dict[str, Any]:
        now = time.monotonic()
        while self._times and self._times[0] < now - COUNTED_S:
            self._times.popleft()
        rate = len(self._times) / COUNTED_S
        return {"n": self._taken, "ms": self._ms, "fps": rate, "speed": self.speed, "paused": self.is_paused}

    def _say(self, line: str) -> None:
        if self.outbox is not None:
            self.outbox.put(text("error", line=line))

    def _show(self, recording: int, steps: list[int], frames: Any) -> None:
        if self.outbox is not None:
            head = {"type": "filmstrip", "recording": recording, "steps": steps, "size": list(frames.shape[1:3])}
            self.outbox.put(pack(head, [frames]))


def packed(view: View, state: dict[str, Any]) -> bytes:
    """A view as a page gets it."""
    pictures = [view.dream] if view.real is None else [view.real, view.dream]
    shape = {"real": view.real is not None, "frames": len(view.dream), "size": list(view.dream.shape[1:3])}
    return pack({"type": "view", **view.said, **state, "shape": shape}, pictures)


def _refuser(line: str) -> Callable[[], Any]:
    def refuse() -> None:
        raise Refused(line)

    return refuse
