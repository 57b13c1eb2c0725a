"""The server with real sockets: what it serves, who comes back, who gives way, and how it ends."""

from __future__ import annotations

import http.client
import time

import pytest
from websockets.exceptions import ConnectionClosed

from fastdreamer.errors import UserError
from fastdreamer.play.guard import POLICY
from fastdreamer.play.rooms import MOST_SESSIONS
from fastdreamer.play.server import PAGE, PlayServer
from play.browsers import serving
from play.sockets import is_left, page, until
from play.stand_in import StandIn


def get(server, path: str = "/", **headers: str) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    connection.request("GET", path, headers=headers)
    answer = connection.getresponse()
    return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()


def test_the_page_and_its_files_come_with_a_strict_policy(server):
    for name in ("", *(path.name for path in PAGE.iterdir())):
        status, headers, body = get(server, f"/{name}")
        assert status == 200 and body == (PAGE / (name or "index.html")).read_bytes()
        assert headers["content-security-policy"] == POLICY and headers["x-content-type-options"] == "nosniff"
    assert get(server, "/main.js")[1]["content-type"].startswith("text/javascript")


def test_the_page_names_nothing_elsewhere():
    for path in PAGE.iterdir():
        words = path.read_text(encoding="ascii").replace("http://www.w3.org/2000/svg", "")
        assert "//" not in words.replace("}://${", "").replace("// ", "").replace('"//', '"//'[:1]), path.name
        assert "style=" not in words and "onclick" not in words


@pytest.mark.parametrize(
    "path",
    ["/../pyproject.toml", "/%2e%2e/server.py", "/..%2fserver.py", "/page", "/socket", "//etc/passwd", "/server.py"],
)
def test_a_path_leads_to_the_page_s_files_alone(server, path):
    status, _, body = get(server, path)
    assert status == 404 and body.count(b"\n") <= 1


def test_an_agent_plays_and_keys_do_not(server, stand_ins):
    with page(server) as found:
        found.say("set", who="phase3", speed=0.0)
        found.hears("view", who="phase3")
        found.act(1)
        assert "plays" in found.hears("error")[0]["line"]
        found.say("single")
        head, _ = found.hears("view", step=1)
        assert stand_ins[0].acted == [None] and head["n"] == 1


def test_mistakes_are_told_and_the_session_goes_on(server):
    with page(server) as found:
        found.act(99)
        assert found.hears("error")[0]["line"] == "that is no action here"
        found.say("set", who="nobody")
        assert "nobody" in found.hears("error")[0]["line"]
        found.say("filmstrip", recording=7)
        assert "no such recording" in found.hears("error")[0]["line"]
        found.act(1)
        found.hears("view", step=1)


def test_rewind_fork_start_and_filmstrip(server):
    with page(server) as found:
        for action in (1, 2, 4):
            found.act(action)
        _, before = found.hears("view", step=3)
        found.say("rewind", steps=2)
        found.hears("view", step=1)
        found.act(2)
        found.act(4)
        assert found.hears("view", step=3)[1] == before
        found.say("fork")
        assert found.hears("view", dreamed=0)[0]["step"] == 3
        found.say("filmstrip", recording=0)
        head, raw = found.hears("filmstrip")
        assert len(raw) == len(head["steps"]) * head["size"][0] * head["size"][1] * 3
        found.say("start", recording=0, step=4)
        assert found.hears("view", step=0)[0]["episode"] == "held out"


def test_a_page_that_comes_back_finds_its_session(stand_ins):
    def make(number):
        stand_ins.append(StandIn())
        return stand_ins[-1]

    with serving(make, kept_s=60) as server:
        with page(server) as found:
            name = found.about["session"]
            found.act(1)
            _, before = found.hears("view", step=1)
        with page(server, name) as found:
            assert found.about["session"] == name and found.about["n"] == 1
            head, raw = found.hears("view")
            assert head["step"] == 1 and raw == before
        assert len(stand_ins) == 1 and server.lines == ["session 1 begins"]


def test_a_session_stands_still_while_nobody_looks_and_is_freed(server, stand_ins):
    with page(server) as found:
        found.say("set", who="random", speed=60.0)
        while found.hears("view")[0]["step"] < 3:
            pass
        name = found.about["session"]
    until(lambda: is_left(server))
    counted = len(stand_ins[0].acted)
    time.sleep(0.2)
    assert len(stand_ins[0].acted) <= counted + 1  # one may have been under way
    until(lambda: "its page is gone" in server.lines[-1])
    assert stand_ins[0].closed == 1
    with page(server, name) as found:
        assert found.about["session"] != name


def test_an_idle_page_is_told_and_freed():
    with serving(lambda n: StandIn(), idle_s=0.5) as server, page(server) as found:
        assert "nobody did anything" in found.hears("bye")[0]["line"]


def test_another_tab_takes_the_session_over(server):
    with page(server) as first, page(server, first.about["session"]) as second:
        assert "another tab" in first.hears("bye")[0]["line"]
        second.act(1)
        second.hears("view", step=1)


def test_a_newcomer_takes_the_place_of_a_session_without_a_page(stand_ins):
    def make(number):
        stand_ins.append(StandIn())
        return stand_ins[-1]

    with serving(make, kept_s=60) as server:
        for _ in range(MOST_SESSIONS + 2):
            with page(server) as found:
                assert found.about["type"] == "hello"
            until(lambda: is_left(server))
        until(lambda: sum(one.closed for one in stand_ins) >= 2)
        assert [one.closed for one in stand_ins] == [1, 1, 0, 0, 0, 0]


def test_the_end_closes_sessions_and_tells_pages(stand_ins):
    def make(number):
        stand_ins.append(StandIn())
        return stand_ins[-1]

    with serving(make) as server, page(server) as found:
        found.act(1)
        found.hears("view", step=1)
        server.stop()
        with pytest.raises(ConnectionClosed):
            while True:
                found.hear()
    assert stand_ins[0].closed == 1
    assert server.lines == ["session 1 begins", "session 1 ends after 1 steps: the server was stopped"]


def test_a_bug_ends_its_session_alone(server, stand_ins):
    with page(server) as found, page(server) as other:
        stand_ins[0].step_in_sight = lambda action: 1 / 0
        found.act(1)
        assert "ZeroDivisionError" in found.hears("bye")[0]["line"]
        other.act(1)
        other.hears("view", step=1)


def test_a_session_that_cannot_be_made_is_told():
    def make(number):
        raise UserError("there is nothing to begin from")

    with serving(make) as server, page(server) as found:
        assert found.about == {"type": "bye", "line": "there is nothing to begin from"}


def test_a_port_in_use_and_hosts_of_others_are_refused(server):
    with pytest.raises(UserError, match=f"port {server.port} of 127.0.0.1 is in use"):
        PlayServer(lambda n: StandIn(), port=server.port)
    with pytest.raises(UserError, match="--token"):
        PlayServer(lambda n: StandIn(), host="0.0.0.0", port=0)
    with pytest.raises(UserError, match="cannot listen"):
        PlayServer(lambda n: StandIn(), host="no.such.host.invalid", port=0, has_token=True)
