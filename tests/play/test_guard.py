"""Who may come in: by Host, Origin, token and rate."""

from __future__ import annotations

import pytest

from fastdreamer.play.guard import BURST, RATE, Guard, Rate, is_loopback


async def nothing(scope, receive, send):
    raise AssertionError("not asked here")


def refusal(guard: Guard, kind: str = "websocket", query: str = "", **headers: str) -> str:
    listed = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    return guard.refusal({"type": kind, "headers": listed, "query_string": query.encode("latin-1")})


GOOD = {"host": "127.0.0.1:8765", "origin": "http://127.0.0.1:8765"}


@pytest.mark.parametrize("host", ["127.0.0.1:8765", "localhost:8765", "LocalHost:8765", "[::1]:8765"])
def test_the_own_names_pass(host):
    guard = Guard(nothing, "127.0.0.1", 8765)
    assert refusal(guard, host=host, origin=f"http://{host}") == ""
    assert refusal(guard, "http", host=host) == ""


@pytest.mark.parametrize(
    "host",
    [
        "evil.example:8765", "127.0.0.1.evil.example:8765", "127.0.0.1", "127.0.0.1:8766", "", "localhost:8765, x",
        "192.168.1.2:8765",
    ],
)  # fmt: skip
def test_a_foreign_host_is_refused(host):
    guard = Guard(nothing, "127.0.0.1", 8765)
    assert "not reached by that name" in refusal(guard, host=host, origin=f"http://{host}")
    assert "not reached by that name" in refusal(guard, "http", host=host)


def test_no_host_and_two_hosts_are_refused():
    guard = Guard(nothing, "127.0.0.1", 8765)
    assert refusal(guard, origin=GOOD["origin"])
    twice = [(b"host", b"127.0.0.1:8765"), (b"host", b"evil.example")]
    assert guard.refusal({"type": "http", "headers": twice})


@pytest.mark.parametrize(
    "origin",
    [
        "http://evil.example", "https://127.0.0.1:8765", "null", "http://localhost:8765", "http://127.0.0.1:80", "",
    ],
)  # fmt: skip
def test_a_foreign_origin_is_refused(origin):
    guard = Guard(nothing, "127.0.0.1", 8765)
    assert "from elsewhere" in refusal(guard, host=GOOD["host"], origin=origin)
    assert "from elsewhere" in refusal(guard, "http", host=GOOD["host"], origin=origin)


def test_a_socket_without_origin_needs_the_token():
    assert "Origin" in refusal(Guard(nothing, "127.0.0.1", 8765), host=GOOD["host"])
    guard = Guard(nothing, "127.0.0.1", 8765, "secret")
    assert refusal(guard, query="token=secret", host=GOOD["host"]) == ""


@pytest.mark.parametrize(
    "query", ["", "token=", "token=secreT", "token=secret%00", "other=secret", "token=\xe9", "&" * 20]
)
def test_the_token_must_be_known(query):
    guard = Guard(nothing, "127.0.0.1", 8765, "secret")
    assert "token" in refusal(guard, query=query, **GOOD)
    assert "token" in refusal(guard, query=query, cookie="fastdreamer-8765=wrong", **GOOD)
    assert "token" in refusal(guard, query=query, cookie="fastdreamer-8766=secret", **GOOD)
    assert "token" in refusal(guard, query=query, cookie="\x01=;;=", **GOOD)
    assert refusal(guard, query=query, cookie="a=b; fastdreamer-8765=secret", **GOOD) == ""
    assert refusal(guard, query="token=secret", **GOOD) == ""


def test_on_every_interface_numbers_pass_and_foreign_names_do_not():
    guard = Guard(nothing, "0.0.0.0", 8765, "secret")
    assert refusal(guard, "http", "token=secret", host="192.168.1.2:8765") == ""
    assert refusal(guard, "http", "token=secret", host="[fe80::1]:8765") == ""
    assert refusal(guard, "http", "token=secret", host="evil.example:8765")
    assert refusal(guard, "http", "token=secret", host="192.168.1.2:80")


def test_loopback_is_told_from_the_rest():
    assert all(map(is_loopback, ("127.0.0.1", "localhost", "::1", "[::1]", "127.8.8.8")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "192.168.1.2", "example.org", "localhost.example.org", "")))


def test_a_burst_passes_and_a_flood_does_not():
    now = 0.0
    rate = Rate(lambda: now)
    assert not any(rate.is_exceeded() for _ in range(int(BURST)))
    assert rate.is_exceeded()
    rate = Rate(lambda: now)
    for _ in range(2000):
        now += 1.01 / RATE
        assert not rate.is_exceeded()
