"""Attacks on a server in use: each is refused in one line, and who plays does not notice."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from contextlib import ExitStack, suppress

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from fastdreamer.play.rooms import MOST_SESSIONS
from play.browsers import serving
from play.sockets import page, until
from play.stand_in import StandIn


class Player(threading.Thread):
    """Somebody who plays on meanwhile, a key every 25 ms."""

    def __init__(self, server, **options) -> None:
        super().__init__(daemon=True)
        self.server, self.options, self.is_done, self.delays, self.errors = server, options, False, [], []

    def run(self) -> None:
        with page(self.server, **self.options) as found:
            while not self.is_done:
                began = time.monotonic()
                found.act(1 + found.count % 4)
                while True:
                    head, _ = found.hear()
                    if head["type"] != "view":
                        self.errors.append(head)
                    elif head["n"] == found.count:
                        break
                self.delays.append(time.monotonic() - began)
                time.sleep(0.025)
            self.steps = head["step"]

    def finish(self) -> None:
        self.is_done = True
        self.join(60)
        assert not self.is_alive() and self.errors == [] and self.steps == len(self.delays) > 5
        assert sorted(self.delays)[int(0.9 * len(self.delays))] < 0.25, self.delays


@pytest.fixture
def attacked():
    """A server on which somebody plays, undisturbed to the end."""
    with serving(lambda number: StandIn()) as server:
        player = Player(server)
        player.start()
        until(lambda: len(player.delays) > 5)
        yield server
        answered = len(player.delays)
        until(lambda: len(player.delays) > answered + 5)
        player.finish()


def ask(server, **headers: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    connection.request("GET", "/", headers=headers)
    answer = connection.getresponse()
    return answer.status, answer.read().decode()


def opened(server, query: str = "", **options):
    options.setdefault("origin", f"http://127.0.0.1:{server.port}")
    return connect(f"ws://127.0.0.1:{server.port}/socket{query}", **options)


def refused(server, **options) -> str:
    with pytest.raises(InvalidStatus) as error, opened(server, **options):
        pass
    assert error.value.response.status_code == 403
    said = error.value.response.body.decode()
    assert said.count("\n") == 1
    return said


def test_a_foreign_origin(attacked):
    assert "from elsewhere" in refused(attacked, origin="http://evil.example")
    assert "from elsewhere" in refused(attacked, origin=f"http://localhost:{attacked.port}")
    assert "Origin" in refused(attacked, origin=None)
    status, said = ask(attacked, Origin="http://evil.example")
    assert status == 403 and said.count("\n") == 1


def test_a_foreign_host(attacked):
    """A name elsewhere that was made to lead here: the browser says it as Host, and as Origin."""
    host = f"rebound.example:{attacked.port}"
    status, said = ask(attacked, Host=host)
    assert status == 403 and "not reached by that name" in said and said.count("\n") == 1
    led_here = socket.create_connection(("127.0.0.1", attacked.port))
    with pytest.raises(InvalidStatus) as error, connect(f"ws://{host}/socket", sock=led_here, origin=f"http://{host}"):
        pass
    assert error.value.response.status_code == 403


def test_no_token():
    with serving(lambda number: StandIn(), has_token=True) as server:
        player = Player(server, query=f"?token={server.token}", origin=None)
        player.start()
        until(lambda: len(player.delays) > 5)
        assert "token" in refused(server)
        assert "token" in refused(server, query="?token=guessed")
        status, said = ask(server)
        assert status == 403 and "token" in said and said.count("\n") == 1
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        connection.request("GET", f"/?token={server.token}")
        answer = connection.getresponse()
        cookie = answer.getheader("set-cookie")
        assert answer.status == 200 and "HttpOnly" in cookie and "SameSite=Strict" in cookie
        kept = cookie.partition(";")[0]
        with page(server, additional_headers={"Cookie": kept}) as found:
            assert found.about["type"] == "hello"
        player.finish()


def test_a_message_of_a_megabyte(attacked):
    with opened(attacked) as connection:
        connection.send(json.dumps({"type": "hello"}))
        with pytest.raises(ConnectionClosed) as closed:
            connection.send("x" * 2**20)
            while True:
                connection.recv(timeout=60)
        assert closed.value.rcvd is not None and closed.value.rcvd.code == 1009
    with page(attacked) as found:
        found.connection.send("x" * 20_000)
        assert "at most 1024" in found.hears("error")[0]["line"]
        found.act(1)
        found.hears("view", step=1)


def test_ten_thousand_messages_a_second(attacked):
    with opened(attacked) as connection:
        connection.send(json.dumps({"type": "hello"}))
        lines = []
        with suppress(ConnectionClosed):
            for i in range(10_000):
                connection.send(json.dumps({"type": "act", "n": i, "action": [1]}))
        with pytest.raises(ConnectionClosed):
            while True:
                said = connection.recv(timeout=60)
                if isinstance(said, str) and json.loads(said)["type"] != "late":
                    lines.append(json.loads(said))
    assert lines[-1]["type"] == "bye" and "too many messages" in lines[-1]["line"]


MALFORMED = ["{", "[]", "null", "{" * 1000, '{"type": "act"}', b"\x00\xff", "", '{"type": "__init__"}']


@pytest.mark.parametrize("sent", MALFORMED)
def test_malformed_messages(attacked, sent):
    with page(attacked) as found:
        found.connection.send(sent)
        line = found.hears("error")[0]["line"]
        assert line.isprintable()
        found.act(1)
        found.hears("view", step=1)


def test_a_malformed_hello(attacked):
    with opened(attacked) as connection:
        connection.send("{")
        said = json.loads(connection.recv(timeout=60))
        assert said == {"type": "bye", "line": "a message is not JSON"}


def test_a_path_in_a_start_s_name(attacked):
    with page(attacked) as found:
        for name in ("../../etc/passwd", "/etc/passwd", "held out/../../x", {"path": "x"}, [0], -1):
            found.say("start", recording=name)
            assert "must be a whole number" in found.hears("error")[0]["line"]
        found.say("start", recording=2**30)
        assert "no such step" in found.hears("error")[0]["line"]


def test_a_session_s_name_is_no_key_to_others(attacked):
    with page(attacked, "../1") as found:
        assert found.about["type"] == "hello" and found.about["session"] != "../1"


def test_fifty_sessions(attacked):
    with ExitStack() as stack:
        said = [stack.enter_context(page(attacked)).about for _ in range(MOST_SESSIONS - 1)]
        assert {one["type"] for one in said} == {"hello"}
        for _ in range(50 - MOST_SESSIONS):
            with page(attacked) as found:
                line = f"{MOST_SESSIONS} sessions are open, which is the most: close one of their tabs"
                assert found.about == {"type": "bye", "line": line}


def test_silent_sockets_do_not_fill_the_server(attacked):
    with ExitStack() as stack:
        silent = [stack.enter_context(opened(attacked)) for _ in range(20)]
        last = json.loads(silent[-1].recv(timeout=60))
        assert last["type"] == "bye" and "pages are connected" in last["line"]
