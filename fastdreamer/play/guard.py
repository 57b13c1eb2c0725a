"""Who may speak to the server: the names it is reached by, where a page came from, the token, and how often.

A page elsewhere can make a browser send requests here, and a name elsewhere can be made to lead here (DNS rebinding).
So a request's Host must be a name that the server was told to serve, and its Origin, where there is one, the same. A
browser always sends an Origin with a WebSocket; what sends none is a tool, and needs the token.
"""

from __future__ import annotations

import ipaddress
import secrets
import socket
import time
from collections.abc import Awaitable, Callable, MutableMapping
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
EVERYWHERE = ("0.0.0.0", "::")
POLICY = "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; object-src 'none'"
HEADERS = (
    ("content-security-policy", POLICY),
    ("x-content-type-options", "nosniff"),
    ("referrer-policy", "no-referrer"),
    ("cross-origin-opener-policy", "same-origin"),
    ("cross-origin-resource-policy", "same-origin"),
    ("cache-control", "no-store"),
)
RATE, BURST = 200.0, 400.0  # messages a second of one page; a page sends some 130 at most
FORBIDDEN = 403
HTTP = 80


def is_loopback(host: str) -> bool:
    """Whether nobody but this machine reaches a host."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def in_address(host: str) -> str:
    """A host as an address has it: IPv6 in brackets."""
    return f"[{host}]" if ":" in host and not host.startswith("[") else host


class Guard:
    """Answers what may not pass with one line, and hands on the rest.

    Args:
        app: what is guarded.
        host: the name or number that is listened on.
        port: the port, which a Host must have.
        token: what every request must know, or None.
    """

    def __init__(self, app: App, host: str, port: int, token: str | None = None) -> None:
        self.app, self.port, self.token = app, port, token
        self.is_everywhere = host in EVERYWHERE
        names = [*LOOPBACK, in_address(host), *([socket.gethostname()] if self.is_everywhere else [])]
        self.hosts = {f"{name.lower()}:{port}" for name in names}
        if port == HTTP:  # a browser leaves it out
            self.hosts |= {name.lower() for name in names}
        self.cookie = f"fastdreamer-{port}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        line = self.refusal(scope)
        if line:
            await _refuse(scope, send, line)
            return
        given = self._in_query(scope)

        async def send_with_headers(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *_encoded(HEADERS)]
                if given:
                    kept = f"{self.cookie}={given}; HttpOnly; SameSite=Strict; Path=/"
                    message["headers"].append((b"set-cookie", kept.encode("ascii")))
            await send(message)

        await self.app(scope, receive, send_with_headers)

    def refusal(self, scope: Scope) -> str:
        """The line for what may not pass, or ""."""
        hosts, origins = _header(scope, b"host"), _header(scope, b"origin")
        if len(hosts) != 1 or not self._is_served(hosts[0].lower()):
            return "this server is not reached by that name"
        if len(origins) > 1 or (origins and origins[0].lower() != f"http://{hosts[0].lower()}"):
            return "a page from elsewhere may not come here"
        if self.token is not None and not self._is_known(scope):
            return "the token is missing or wrong: open the address that the terminal shows"
        if scope["type"] == "websocket" and not origins and self.token is None:
            return "a socket must say its Origin"
        return ""

    def _is_served(self, host: str) -> bool:
        if host in self.hosts:
            return True
        name, _, port = host.rpartition(":")
        if not self.is_everywhere or port != str(self.port):
            return False
        try:  # a number cannot be made to lead here by somebody else's name server
            ipaddress.ip_address(name.strip("[]"))
        except ValueError:
            return False
        return True

    def _is_known(self, scope: Scope) -> bool:
        return self._in_query(scope) is not None or any(map(self._is_token, self._cookies(scope)))

    def _is_token(self, text: str) -> bool:
        return self.token is not None and secrets.compare_digest(text.encode(), self.token.encode())

    def _in_query(self, scope: Scope) -> str | None:
        try:
            found = parse_qs(scope.get("query_string", b"").decode("ascii"), max_num_fields=8).get("token", [])
        except ValueError:
            return None
        return self.token if any(map(self._is_token, found)) else None

    def _cookies(self, scope: Scope) -> list[str]:
        try:
            jars = [SimpleCookie(text) for text in _header(scope, b"cookie")]
        except CookieError:
            return []
        return [jar[self.cookie].value for jar in jars if self.cookie in jar]


class Rate:
    """Messages of one page: `RATE` a second in the long run, `BURST` at once."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._left, self._at = BURST, clock()

    def is_exceeded(self) -> bool:
        """Count a message."""
        now = self._clock()
        self._left = min(BURST, self._left + (now - self._at) * RATE) - 1.0
        self._at = now
        return self._left < 0


def _header(scope: Scope, name: bytes) -> list[str]:
    return [value.decode("latin-1") for key, value in scope["headers"] if key == name]


def _encoded(headers: tuple[tuple[str, str], ...]) -> list[tuple[bytes, bytes]]:
    return [(name.encode("ascii"), value.encode("ascii")) for name, value in headers]


async def _refuse(scope: Scope, send: Send, line: str) -> None:
    body = f"{line}\n".encode()
    prefix = "http" if scope["type"] == "http" else "websocket.http"
    headers = [*_encoded(HEADERS), *_encoded((("content-type", "text/plain"), ("content-length", str(len(body)))))]
    await send({"type": f"{prefix}.response.start", "status": FORBIDDEN, "headers": headers})
    await send({"type": f"{prefix}.response.body", "body": body})
