"""When a session steps, and with what: keys in their order, ticks at their speed, and what a page sees of it."""

from __future__ import annotations

import threading
import time
from contextlib import ExitStack

from fastdreamer.play.rooms import MOST_SESSIONS
from fastdreamer.play.ticker import REPEATS
from fastdreamer.play.urgency import never
from play.browsers import serving
from play.sockets import page, still, until
from play.stand_in import StandIn


def test_presses_are_steps_in_order(server, stand_ins):
    wanted = [(1 + i % 4,) for i in range(100)]
    with page(server) as found:
        assert found.about["type"] == "hello" and found.about["size"] == [64, 64]
        for action in wanted:
            found.act(*action)
            time.sleep(0.02)
        head, raw = found.hears("view", n=100)
    assert stand_ins[0].acted == wanted and head["step"] == 100 and len(raw) == 2 * 64 * 64 * 3


def test_more_than_fits_is_refused_with_a_line(server, stand_ins):
    with page(server) as found:
        for _ in range(60):
            found.act(1)
        head, _ = found.hears("error")
        assert "wait already" in head["line"]
        found.say("pause", on=True)
        found.hears("view", paused=True)
        before = 0
        while before != (before := len(stand_ins[0].acted)) or before < 32:
            time.sleep(0.2)
        assert 32 <= before < 60


def test_ticks_come_at_the_chosen_speed_and_stop(server, stand_ins):
    def is_fast() -> bool:
        """Whether a second had most of its ticks; none may have more."""
        began, before = time.monotonic(), len(stand_ins[0].acted)
        time.sleep(1.0)
        counted, passed = len(stand_ins[0].acted) - before, time.monotonic() - began
        assert counted <= 40 * passed + 2
        return counted >= 25 * passed

    with page(server) as found:
        found.say("set", speed=40.0)
        until(is_fast)
        found.say("pause", on=True)
        found.hears("view", paused=True)
        counted = still(stand_ins[0])
        assert set(stand_ins[0].acted) == {None}
        found.say("single")
        found.hears("view", step=counted + 1)


def test_what_is_held_repeats_though_the_game_waits_for_keys(server, stand_ins):
    with page(server) as found:
        began = time.monotonic()
        found.say("hold", action=[2])
        until(lambda: len(stand_ins[0].acted) >= 3)
        found.say("hold", action=None)
        passed = time.monotonic() - began
        counted = still(stand_ins[0])
        assert stand_ins[0].acted == [(2,)] * counted and counted <= REPEATS * passed + 2


def test_a_key_that_is_released_before_its_tick_is_done_is_no_step_without_a_key(stand_ins):
    goes_on = threading.Event()

    class Waiting(StandIn):
        def fork(self):
            assert goes_on.wait(60)
            return super().fork()

    def make(number):
        stand_ins.append(Waiting() if number == 2 else StandIn())
        return stand_ins[-1]

    with serving(make) as server, page(server) as found, page(server) as other:
        found.say("hold", action=[2])
        until(lambda: len(stand_ins[0].acted) >= 2)
        other.say("fork")
        until(lambda: server.rooms._worker._work_queue.qsize() > 0)  # a tick waits for the other session's work
        found.say("hold", action=None)
        found.say("pause", on=True)
        found.hears("view", paused=True)
        goes_on.set()
        assert stand_ins[0].acted == [(2,)] * still(stand_ins[0])


def test_a_press_does_not_wait_for_the_tick(server):
    with page(server) as found:
        found.say("set", speed=0.01)
        found.hears("view", speed=0.01)
        found.act(1)
        found.hears("view", n=1)  # it would have to wait for 100 s, which is longer than it is heard for


def test_a_tick_that_is_under_way_gives_way_to_a_key(stand_ins):
    class Slow(StandIn):
        def step_in_sight(self, action, superseded=never):
            ends = time.monotonic() + 3
            while action is None and not superseded() and time.monotonic() < ends:
                time.sleep(0.005)
            return super().step_in_sight(action, superseded)

    def make(number):
        stand_ins.append(Slow())
        return stand_ins[-1]

    with serving(make) as server, page(server) as found:
        found.say("set", speed=20.0)
        time.sleep(0.3)
        found.act(1)
        found.hears("view", n=1)
        assert stand_ins[0].acted == [(1,)]


def test_what_agents_think_follows_the_pictures(server):
    with page(server) as found:
        found.hears("view")
        found.act(1)
        head, raw = found.hears("view", n=1)
        assert raw and head["agent"] is head["drift"]["dream"] is None
        found.hear_late()
        found.act(2)
        found.hears("view", n=2)
        (late,) = found.late
        assert (late["view"], late["step"]) == (head["view"], 1) and late["agent"]["3"]["value"] > 0
        assert late["drift"]["dream"] > 0


def test_a_view_that_waited_for_its_page_has_all_that_came_late(server, stand_ins):
    with page(server) as found:
        (room,) = server.rooms._rooms.values()
        found.say("set", who="random", speed=60.0)
        until(lambda: len(stand_ins[0].acted) > 20)  # nothing is seen meanwhile
        found.say("pause", on=True)
        until(lambda: room.ticker.is_paused)
        still(stand_ins[0])
        until(lambda: stand_ins[0].is_whole and room.ticker._is_whole)
        heads = [found.hear()[0] for _ in range(3)]
        assert heads[-1]["paused"] and heads[-1]["agent"] is not None
        assert all(late["view"] in [head["view"] for head in heads[:-1]] for late in found.late)


def test_a_slow_page_gets_the_newest_view_and_no_old_ones(server, stand_ins):
    with page(server) as found:
        found.say("set", who="random", speed=60.0)
        until(lambda: len(stand_ins[0].acted) > 30)  # nothing is seen meanwhile
        steps = [found.hear()[0]["step"] for _ in range(4)]
        assert steps[0] == 0 and steps[1] <= 2 and steps[2] > 20, steps


def test_sessions_step_side_by_side(stand_ins):
    stepped: list[int] = []  # whose step it was, from when all had begun on

    class Noting(StandIn):
        def step_in_sight(self, action, superseded=never):
            if all(one.acted for one in stand_ins) and len(stand_ins) == MOST_SESSIONS:
                stepped.append(stand_ins.index(self))
            return super().step_in_sight(action, superseded)

    def make(number):
        stand_ins.append(Noting(step_s=0.005))
        return stand_ins[-1]

    with serving(make) as server, ExitStack() as stack:
        for _ in range(MOST_SESSIONS):
            stack.enter_context(page(server)).say("set", who="random", speed=30.0)
        until(lambda: len(stepped) >= 30 * MOST_SESSIONS)
    first = [stepped.index(number) for number in range(MOST_SESSIONS)]
    shares = [stepped[: 30 * MOST_SESSIONS].count(number) for number in range(MOST_SESSIONS)]
    assert max(first) < 2 * MOST_SESSIONS and min(shares) >= 20, (first, shares)
