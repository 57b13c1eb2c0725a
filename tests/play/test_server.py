"""The server with real sockets: it steps in order, comes back, gives way, and ends cleanly."""

from __future__ import annotations

import http.client
import threading
import time

import pytest
from websockets.exceptions import ConnectionClosed

from fastdreamer.errors import UserError
from fastdreamer.play.guard import POLICY
from fastdreamer.play.rooms import MOST_SESSIONS
from fastdreamer.play.server import PAGE, PlayServer
from fastdreamer.play.urgency import never
from play.browsers import serving
from play.sockets import page
from play.stand_in import StandIn


@pytest.fixture
def made() -> list[StandIn]:
    return []


@pytest.fixture
def server(made):
    def make(number):
        made.append(StandIn())
        return made[-1]

    with serving(make, kept_s=0.6) as running:
        yield running


def get(server, path: str = "/", **headers: str) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=5)
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


def test_presses_are_steps_in_order(server, made):
    wanted = [(1 + i % 4,) for i in range(100)]
    with page(server) as found:
        assert found.about["type"] == "hello" and found.about["size"] == [64, 64]
        for action in wanted:
            found.act(*action)
            time.sleep(0.02)
        head, raw = found.hears("view", n=100)
    assert made[0].acted == wanted and head["step"] == 100 and len(raw) == 2 * 64 * 64 * 3


def test_more_than_fits_is_refused_with_a_line(server, made):
    with page(server) as found:
        for _ in range(60):
            found.act(1)
        head, _ = found.hears("error")
        assert "wait already" in head["line"]
        found.say("pause", on=True)
        found.hears("view", paused=True)
        before = 0
        while before != (before := len(made[0].acted)) or before < 32:
            time.sleep(0.2)
        assert 32 <= before < 60


def test_ticks_come_at_the_chosen_speed_and_stop(server, made):
    with page(server) as found:
        found.say("set", speed=40.0)
        time.sleep(1.0)
        found.say("pause", on=True)
        found.hears("view", paused=True)
        time.sleep(0.05)  # the tick that was under way
        counted = len(made[0].acted)
        assert 25 <= counted <= 42 and set(made[0].acted) == {None}
        time.sleep(0.2)
        assert len(made[0].acted) == counted
        found.say("single")
        found.hears("view", step=counted + 1)


def test_what_is_held_repeats_though_the_game_waits_for_keys(server, made):
    with page(server) as found:
        found.say("hold", action=[2])
        time.sleep(0.55)
        found.say("hold", action=None)
        time.sleep(0.3)
        assert made[0].acted == [(2,)] * len(made[0].acted) and 3 <= len(made[0].acted) <= 6


def test_a_press_does_not_wait_for_the_tick(server):
    with page(server) as found:
        found.say("set", speed=0.5)
        found.hears("view", speed=0.5)
        began = time.monotonic()
        found.act(1)
        found.hears("view", n=1)
        assert time.monotonic() - began < 0.5


def test_a_tick_that_is_under_way_gives_way_to_a_key(made):
    class Slow(StandIn):
        def step_in_sight(self, action, superseded=never):
            ends = time.monotonic() + 3
            while action is None and not superseded() and time.monotonic() < ends:
                time.sleep(0.005)
            return super().step_in_sight(action, superseded)

    def make(number):
        made.append(Slow())
        return made[-1]

    with serving(make) as server, page(server) as found:
        found.say("set", speed=20.0)
        time.sleep(0.3)
        found.act(1)
        found.hears("view", n=1)
        assert made[0].acted == [(1,)]


def test_what_agents_think_follows_the_pictures(server):
    with page(server) as found:
        found.hears("view")
        found.act(1)
        head, raw = found.hears("view", n=1)
        assert raw and head["agent"] is head["drift"]["dream"] is None
        time.sleep(0.2)
        found.act(2)
        found.hears("view", n=2)
        (late,) = found.late
        assert (late["view"], late["step"]) == (head["view"], 1) and late["agent"]["3"]["value"] > 0
        assert late["drift"]["dream"] > 0


def test_a_view_that_waited_for_its_page_has_all_that_came_late(server):
    with page(server) as found:
        found.say("set", who="random", speed=60.0)
        time.sleep(0.5)  # nothing is seen meanwhile
        found.say("pause", on=True)
        time.sleep(0.2)
        heads = [found.hear()[0] for _ in range(3)]
        assert heads[-1]["paused"] and heads[-1]["agent"] is not None
        assert all(late["view"] in [head["view"] for head in heads[:-1]] for late in found.late)


def test_a_slow_page_gets_the_newest_view_and_no_old_ones(server):
    with page(server) as found:
        found.say("set", who="random", speed=60.0)
        time.sleep(1.0)  # nothing is seen meanwhile
        steps = [found.hear()[0]["step"] for _ in range(4)]
        assert steps[0] == 0 and steps[1] <= 2 and steps[2] > 20, steps


def test_an_agent_plays_and_keys_do_not(server, made):
    with page(server) as found:
        found.say("set", who="phase3", speed=0.0)
        found.hears("view", who="phase3")
        found.act(1)
        assert "plays" in found.hears("error")[0]["line"]
        found.say("single")
        head, _ = found.hears("view", step=1)
        assert made[0].acted == [None] and head["n"] == 1


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


def test_a_page_that_comes_back_finds_its_session(server, made):
    with page(server) as found:
        name = found.about["session"]
        found.act(1)
        _, before = found.hears("view", step=1)
    with page(server, name) as found:
        assert found.about["session"] == name and found.about["n"] == 1
        head, raw = found.hears("view")
        assert head["step"] == 1 and raw == before
    assert len(made) == 1 and server.lines == ["session 1 begins"]


def test_a_session_stands_still_while_nobody_looks_and_is_freed(server, made):
    with page(server) as found:
        found.say("set", who="random", speed=60.0)
        while found.hears("view")[0]["step"] < 3:
            pass
        name = found.about["session"]
    time.sleep(0.2)
    counted = len(made[0].acted)
    time.sleep(0.2)
    assert len(made[0].acted) == counted
    deadline = time.monotonic() + 5
    while not made[0].closed and time.monotonic() < deadline:
        time.sleep(0.05)
    assert made[0].closed == 1 and "its page is gone" in server.lines[-1]
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


def test_a_newcomer_takes_the_place_of_a_session_without_a_page(made):
    def make(number):
        made.append(StandIn())
        return made[-1]

    with serving(make, kept_s=60) as server:
        for _ in range(MOST_SESSIONS + 2):
            with page(server) as found:
                assert found.about["type"] == "hello"
            time.sleep(0.05)  # until the server has noticed
        assert [one.closed for one in made] == [1, 1, 0, 0, 0, 0]


def test_the_end_closes_sessions_and_tells_pages(made):
    def make(number):
        made.append(StandIn())
        return made[-1]

    with serving(make) as server, page(server) as found:
        found.act(1)
        found.hears("view", step=1)
        server.stop()
        with pytest.raises(ConnectionClosed):
            while True:
                found.hear()
    assert made[0].closed == 1
    assert server.lines == ["session 1 begins", "session 1 ends after 1 steps: the server was stopped"]


def test_a_bug_ends_its_session_alone(server, made):
    with page(server) as found, page(server) as other:
        made[0].step_in_sight = lambda action: 1 / 0
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


def test_sessions_step_side_by_side(made):
    def make(number):
        made.append(StandIn(step_s=0.005))
        return made[-1]

    with serving(make) as server:

        def play() -> None:
            with page(server) as found:
                found.say("set", who="random", speed=30.0)
                while found.hears("view")[0]["step"] < 30:
                    pass

        threads = [threading.Thread(target=play) for _ in range(4)]
        began = time.monotonic()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert all(len(one.acted) >= 30 for one in made) and time.monotonic() - began < 5
