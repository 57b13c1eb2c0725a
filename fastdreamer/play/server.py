"""The server of the page: its files, its sockets, and a clean end.

Nothing that a request says becomes a path: the page's files are read once, and found by their names.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import secrets
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from fastdreamer.errors import UserError
from fastdreamer.play.guard import EVERYWHERE, Guard, Rate, in_address, is_loopback
from fastdreamer.play.messages import Hello, Refused, parse, text
from fastdreamer.play.outbox import Outbox
from fastdreamer.play.rooms import IDLE_S, KEPT_S, Rooms
from fastdreamer.system.advice import again
from fastdreamer.system.output import name as shown_name

if TYPE_CHECKING:
    from fastdreamer.play.session import Session

PAGE = Path(__file__).parent / "page"
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
MOST_SOCKETS = 16
MOST_CONNECTIONS = 64
MOST_FRAME_BYTES = 2**16  # a larger message ends its connection before it is read
HELLO_S = 10.0  # until a page must have said hello
GRACE_S = 3  # for what is under way when the server stops
POLICY_VIOLATION = 1008
PORT = 8765


class PlayServer:
    """Serves sessions to pages.

    Args:
        make: makes a session, in the worker.
        host, port: what is listened on; port 0 is any that is free.
        has_token: whether a token is needed.
        say: prints a line.
        kept_s, idle_s: see `Rooms`.

    Raises:
        UserError: if the place cannot be listened on, or others could reach it without a token.
    """

    def __init__(
        self,
        make: Callable[[int], Session],
        host: str = "127.0.0.1",
        port: int = PORT,
        has_token: bool = False,
        say: Callable[[str], None] = print,
        kept_s: float = KEPT_S,
        idle_s: float = IDLE_S,
    ) -> None:
        if not has_token and not is_loopback(host):
            raise UserError(
                f"on {host} everybody who reaches this machine could play, and record: let only those in who are given "
                f"the address with its secret: {again('--token')}"
            )
        self._say = say
        self._listener = _listen(host, port)
        self.host, self.port = host, int(self._listener.getsockname()[1])
        self.token = secrets.token_urlsafe(24) if has_token else None
        self.rooms = Rooms(make, say, kept_s, idle_s)
        self._files = {path.name: path.read_bytes() for path in PAGE.iterdir() if path.suffix in TYPES}
        self._sockets = 0
        routes = [Route("/", self._file), Route("/{name}", self._file), WebSocketRoute("/socket", self._socket)]
        self._server = _Server(
            uvicorn.Config(
                Guard(Starlette(routes=routes), host, self.port, self.token), log_config=None, log_level="critical",
                access_log=False, lifespan="off", ws="websockets-sansio", http="h11", loop="asyncio",
                ws_max_size=MOST_FRAME_BYTES, ws_per_message_deflate=False, proxy_headers=False, server_header=False,
                date_header=False, limit_concurrency=MOST_CONNECTIONS, timeout_graceful_shutdown=GRACE_S,
            )
        )  # fmt: skip

    @property
    def address(self) -> str:
        """What a browser opens."""
        name = socket.gethostname() if self.host in EVERYWHERE else self.host
        secret = f"?token={self.token}" if self.token else ""
        return f"http://{in_address(name)}:{self.port}/{secret}"

    async def serve(self) -> None:
        """Serves until `stop`."""
        watch = asyncio.get_running_loop().create_task(self.rooms.watch())
        try:
            await self._server.serve(sockets=[self._listener])
        finally:
            watch.cancel()
            await self.rooms.close()
            self._listener.close()

    def stop(self) -> None:
        """Lets go of the pages and ends the sessions; from the loop's thread, or any."""
        self._server.should_exit = True

    def run(self) -> None:
        """Serves until a signal asks to stop; a second one does not wait."""

        async def served() -> None:
            loop = asyncio.get_running_loop()
            asked = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
            numbers = [number for number in asked if signal.getsignal(number) is not signal.SIG_IGN]
            before = {number: signal.getsignal(number) for number in numbers}

            def stop() -> None:
                self.stop()
                for number in numbers:
                    loop.remove_signal_handler(number)
                    signal.signal(number, before[number])

            for number in numbers:
                loop.add_signal_handler(number, stop)
            await self.serve()

        asyncio.run(served())

    async def _file(self, request: Request) -> Response:
        name = request.path_params.get("name", "index.html")
        if name not in self._files:
            return Response("there is no such page\n", 404, media_type="text/plain")
        return Response(self._files[name], media_type=TYPES[Path(name).suffix])

    async def _socket(self, connection: WebSocket) -> None:
        await connection.accept()
        self._sockets += 1
        try:
            if self._sockets > MOST_SOCKETS:
                raise Refused(f"{MOST_SOCKETS} pages are connected, which is the most: close some tabs")
            await self._talk(connection)
        except Refused as error:
            await _bye(connection, str(error))
        except (WebSocketDisconnect, TimeoutError, asyncio.CancelledError):
            pass
        except Exception as error:  # the others play on
            line = f"unexpected {type(error).__name__}: {' '.join(str(error).split())[:200]}"
            self._say(shown_name(line))
            await _bye(connection, line)
        finally:
            self._sockets -= 1

    async def _talk(self, connection: WebSocket) -> None:
        rate = Rate()
        hello = await asyncio.wait_for(_heard(connection, rate), HELLO_S)
        message = parse(hello)
        if not isinstance(message, Hello):
            raise Refused("the first message must be hello")

        async def send(packed: str | bytes) -> None:
            await (connection.send_text(packed) if isinstance(packed, str) else connection.send_bytes(packed))

        outbox = Outbox(send)
        room = await self.rooms.enter(message.session, outbox)
        assert room.ticker is not None
        sending = asyncio.get_running_loop().create_task(outbox.run())
        try:
            while True:
                hearing = asyncio.get_running_loop().create_task(_heard(connection, rate))
                await asyncio.wait({sending, hearing}, return_when=asyncio.FIRST_COMPLETED)
                if sending.done():
                    hearing.cancel()
                    raise Refused(sending.result())
                try:
                    room.ticker.take(parse(hearing.result()))
                except _TooOften:
                    raise
                except Refused as error:
                    outbox.put(text("error", line=str(error)))
        finally:
            sending.cancel()
            self.rooms.leave(room, outbox)


class _Server(uvicorn.Server):
    """The command line has its own way with signals."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leaves signals alone."""
        yield


class _TooOften(Refused):
    """More messages than a page has reason to send; its connection ends."""


async def _heard(connection: WebSocket, rate: Rate) -> str | bytes:
    """The next message."""
    message: Any = await connection.receive()
    if message["type"] != "websocket.receive":
        raise WebSocketDisconnect(message.get("code", 1000))
    if rate.is_exceeded():
        raise _TooOften("too many messages: the connection was closed")
    found: str | bytes = message.get("text") or message.get("bytes") or ""
    return found


async def _bye(connection: WebSocket, line: str) -> None:
    """The last line, and the end of the connection."""
    with contextlib.suppress(RuntimeError, WebSocketDisconnect):  # it may be gone already
        await connection.send_text(text("bye", line=line))
        await connection.close(POLICY_VIOLATION, line[:120])


def _listen(host: str, port: int) -> socket.socket:
    """A socket that listens there."""
    try:
        found = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(found[0], socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(found[4])
        listener.listen()  # who comes before the loop runs waits
    except (OSError, OverflowError, UnicodeError) as error:
        number = error.errno if isinstance(error, OSError) else None
        if number == errno.EADDRINUSE:
            raise UserError(f"port {port} of {host} is in use: choose another --port, or 0 for any") from error
        if number == errno.EACCES:
            raise UserError(f"this account may not use port {port}: choose a --port from 1024 on") from error
        reason = getattr(error, "strerror", None) or str(error)
        where = f"port {port} of {host}"
        raise UserError(f"cannot listen on {where} ({reason}): choose another --host or --port") from error
    return listener
