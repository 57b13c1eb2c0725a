"""The page in a real browser, on a run that was trained for seconds: `fastdreamer play` as a person uses it."""

from __future__ import annotations

import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from bench.browsers import COMMAND, Served
from play.tabs import CONTRAST, Tab

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def served(small_run) -> Iterator[Served]:
    with Served("--run-dir", str(small_run), "--port", "0") as server:
        yield server
        code, out, err = server.end()
    assert code == 0 and err == ""
    assert all(re.fullmatch(r"session \d+ (begins|ends after \d+ steps: .+)", line) for line in out.splitlines())


@pytest.fixture
def tab(chromium, served) -> Iterator[Tab]:
    context = chromium.new_context(viewport={"width": 1280, "height": 1000})
    found = Tab(context.new_page(), served.address)
    yield found
    found.is_clean()
    context.close()


def test_both_pictures_move_and_the_page_asks_nobody_else(tab, shot):
    before = tab.pictures()
    assert tab.number("step") == 0 and "begins" in tab.says("dream-note")
    shot(tab, "begin")
    tab.press("d", "d", "ArrowDown", " ")
    after = tab.pictures()
    assert tab.number("step") == 4 and after[0] != before[0] and after[1] != before[1] and after[0] != after[1]
    assert "imagined for 4 steps" in tab.says("dream-note")
    tab.until(lambda: tab.says("delay").endswith("ms"))
    shot(tab, "played")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 800, 1600])
def test_the_page_fits_and_is_readable(chromium, served, shot, width, scheme):
    context = chromium.new_context(viewport={"width": width, "height": 1000}, color_scheme=scheme)
    tab = Tab(context.new_page(), served.address)
    tab.press("d", "s")
    wide = tab.page.evaluate("document.documentElement.scrollWidth")
    assert wide <= width
    outside = tab.page.evaluate(
        """[...document.querySelectorAll("button, select, label, canvas, h1, h2, output")].filter((one) => {
            const box = one.getBoundingClientRect();
            return box.width && (box.left < 0 || box.right > innerWidth + 1);
        }).map((one) => one.id || one.textContent)"""
    )
    assert outside == []
    faint = tab.page.evaluate(CONTRAST)
    assert faint == []
    shot(tab, f"{width}-{scheme}")
    tab.is_clean()
    context.close()


def test_the_layout_does_not_jump(tab):
    def places() -> Any:
        return tab.page.evaluate(
            "[...document.querySelectorAll('section, figure, button')].map((a) => a.getBoundingClientRect().toJSON())"
        )

    before = places()
    tab.press("w", "a", "s", "d", " ")
    assert places() == before
    tab.page.get_by_role("button", name="Fork the dream").click()
    tab.until(lambda: "begins" in tab.says("dream-note"))
    assert places() == before


def test_the_agent_takes_over_and_hands_back(tab, shot):
    tab.page.locator("#who label", has_text="Phase 3").click()
    tab.until(lambda: tab.data("who") == "phase3" and tab.number("step") > 5, "the agent plays")
    shot(tab, "agent")
    tab.page.keyboard.press("w")
    tab.until(lambda: "choose You" in tab.says("notice"), "the key is explained")
    tab.page.locator("#who label", has_text="You").click()
    tab.until(lambda: tab.data("who") == "you")
    at = tab.number("step")
    time.sleep(0.4)
    assert tab.number("step") <= at + 1, "the game waits for keys again"
    tab.press("w")
    assert tab.number("step") >= at + 1


def test_rewind_and_fork_give_the_very_frames_again(tab, shot):
    keys = ["d", "s", " ", "a", "w", "d"]
    seen = [tab.pictures()]
    for key in keys:
        tab.press(key)
        seen.append(tab.pictures())
    for back in range(1, 4):
        tab.page.keyboard.press(",")
        tab.until(lambda: tab.number("step") == len(keys) - back, "rewind")  # noqa: B023
        assert tab.pictures() == seen[len(keys) - back]
    for at in range(3, 6):
        tab.press(keys[at])
        assert tab.pictures() == seen[at + 1]
    tab.page.keyboard.press("/")
    tab.until(lambda: "begins" in tab.says("dream-note"), "fork")
    real, forked = tab.pictures()
    assert real == seen[-1][0] and forked != seen[-1][1]
    tab.press("w", "w")
    after = tab.pictures()
    shot(tab, "forked")
    tab.page.keyboard.press(",")
    tab.page.keyboard.press(",")
    tab.until(lambda: tab.number("step") == 6, "rewind to the fork")
    assert tab.pictures() == (real, forked)
    tab.press("w", "w")
    assert tab.pictures() == after


def test_pause_single_step_and_speed(tab, shot):
    tab.page.select_option("#speed", "20")
    tab.until(lambda: tab.number("step") > 5, "it ticks")
    tab.page.keyboard.press("Escape")
    tab.until(lambda: tab.page.locator("#pause").get_attribute("aria-pressed") == "true")
    time.sleep(0.3)  # a step may have been under way
    at = tab.number("step")
    time.sleep(0.3)
    assert tab.number("step") == at
    tab.page.keyboard.press(".")
    tab.until(lambda: tab.number("step") == at + 1, "one step")
    shot(tab, "paused")
    tab.page.keyboard.press("Escape")
    tab.until(lambda: tab.number("step") > at + 3, "it goes on")


def test_a_held_key_repeats(tab):
    tab.page.keyboard.down("d")
    tab.until(lambda: tab.number("step") >= 4, "it is held")
    tab.page.keyboard.up("d")
    time.sleep(0.3)
    at = tab.number("step")
    time.sleep(0.3)
    assert tab.number("step") == at and tab.number("n") == 1


def test_begin_at_a_step_of_a_recording_by_keyboard_alone(tab, shot):
    tab.page.locator("#begin").focus()
    tab.page.keyboard.press("Enter")
    tab.page.locator("#film button").nth(2).wait_for()
    shot(tab, "starts")
    tab.page.locator("#which").focus()
    tab.page.keyboard.press("Tab")
    tab.page.keyboard.press("Tab")
    name = tab.page.evaluate("document.activeElement.getAttribute('aria-label')")
    tab.page.keyboard.press("Enter")
    tab.until(lambda: not tab.page.locator("#starts").is_visible())
    tab.until(lambda: f"begin at step {tab.number('step')}" == name, name)
    tab.page.locator("#who label", has_text="Recorded").click()
    at = tab.number("step")
    tab.until(lambda: tab.number("step") > at + 2, "the recorded actions play")
    shot(tab, "recorded")


def test_another_world_shows_other_pictures(tab):
    before = tab.picture("real")
    tab.page.locator("#begin").click()
    tab.page.locator("#seed").fill("77")
    tab.page.locator("#go").click()
    tab.until(lambda: tab.picture("real") != before)


def test_a_mistake_is_told(tab, shot):
    tab.page.locator("#begin").click()
    tab.page.locator("#seed").fill("-3")
    tab.page.locator("#go").click()
    assert tab.page.locator("#starts").is_visible()
    tab.page.keyboard.press("Escape")
    tab.page.evaluate("import('./main.js')")
    tab.press("d")


def test_everything_is_reached_by_keyboard(tab):
    wanted = tab.page.evaluate(
        "[...document.querySelectorAll('button, select, [tabindex=\"0\"]')].filter((one) => one.checkVisibility() && "
        "!one.disabled && !one.closest('dialog')).length"
    )
    tab.page.evaluate("document.activeElement.blur()")
    reached = set()
    for _ in range(wanted + 20):
        tab.page.keyboard.press("Tab")
        found = tab.page.evaluate(
            """(() => { const one = document.activeElement;
            const parts = [one, one.closest("label") ?? one];
            const isSeen = parts.some((part) => getComputedStyle(part).outlineStyle !== "none");
            window.marked ??= new Map(); if (!marked.has(one)) marked.set(one, marked.size);
            return [marked.get(one), isSeen || one === document.body, one.tagName]; })()"""
        )
        assert found[1], f"{found} has no visible focus"
        if found[2] in ("BUTTON", "SELECT", "SECTION"):
            reached.add(found[0])
    assert len(reached) == wanted


def test_a_reload_comes_back_where_it_was(tab):
    tab.press("d", "s", "d")
    before, session = tab.pictures(), tab.data("session")
    tab.page.reload()
    tab.until(lambda: tab.data("state") == "open" and tab.data("view") is not None)
    assert tab.data("session") == session and tab.number("step") == 3 and tab.pictures() == before
    tab.press("d")
    assert tab.number("step") == 4


def test_two_tabs_play_two_games(chromium, served):
    context = chromium.new_context()
    one, two = Tab(context.new_page(), served.address), Tab(context.new_page(), served.address)
    assert one.data("session") != two.data("session")
    one.press("d", "d")
    two.press("a")
    assert (one.number("step"), two.number("step")) == (2, 1)
    two.page.close()
    one.press("d")
    assert one.number("step") == 3
    one.is_clean()
    context.close()


def test_a_tab_that_is_killed_disturbs_nobody(chromium, served, tab):
    asking = chromium.new_browser_cdp_session()

    def renderers() -> set[int]:
        found = asking.send("SystemInfo.getProcessInfo")["processInfo"]
        return {int(one["id"]) for one in found if one["type"] == "renderer"}

    before = renderers()
    context = chromium.new_context()
    victim = Tab(context.new_page(), served.address)
    victim.page.select_option("#speed", "30")
    victim.until(lambda: victim.number("step") > 3)
    gone: list[Any] = []
    victim.page.on("crash", lambda page: gone.append(page))
    for process in renderers() - before:
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
    tab.press("d", "d", "d")
    tab.until(lambda: tab.data("state") == "open" and bool(gone), "the other tab is gone")
    assert tab.number("step") == 3
    context.close()


def port_nobody_is_given() -> int:
    """A free port that the system gives nobody who asks for any, so that it is free a second time."""
    first, last = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    others = [port for port in range(1024, 65536) if not first <= port <= last] or [0]
    while True:
        port = random.choice(others)
        with socket.socket() as tried, suppress(OSError):
            tried.bind(("127.0.0.1", port))
            return port


def test_a_server_that_is_killed_and_started_again(chromium, small_run, shot, tmp_path):
    record = tmp_path / "recordings"
    words = ["--run-dir", str(small_run), "--record", str(record)]
    server = Served(*words, "--port", str(port_nobody_is_given()))
    context = chromium.new_context(viewport={"width": 1280, "height": 1000})
    tab = Tab(context.new_page(), server.address)
    tab.may_lose = True
    tab.press("d", "d")
    assert "recording" in tab.says("recording")
    shot(tab, "recording")
    server.__exit__()
    tab.until(lambda: tab.data("state") == "lost")
    assert "Connection lost" in tab.says("lost") and tab.page.locator("#lost").get_attribute("role") == "alert"
    shot(tab, "lost")
    with Served(*words, "--port", str(server.port)) as again:
        assert "was lost" in again.lines[0], "the episode in hand, by its world"
        tab.until(lambda: tab.data("state") == "open" and tab.data("view") is not None, "it comes back")
        assert "new session" in tab.says("notice")
        tab.press("d")
        code, _, err = again.end(signal.SIGTERM)
        assert code == 0 and err == ""
    kept = list(record.glob("*/*/metadata.json"))
    assert len(kept) == 1, "the episode in hand was written when the server was asked to stop"
    tab.is_clean()
    context.close()


def test_make_play_serves_the_page(chromium, small_run, tmp_path):
    """The target as it is; its set-up is taken to be done, in an environment that leads to this one."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").symlink_to(sys.executable)
    program = tmp_path / "bin" / "fastdreamer"
    program.write_text(f"#!/bin/sh\nexec {sys.executable} -c '{COMMAND[2]}' \"$@\"\n")
    program.chmod(0o755)
    (tmp_path / ".installed-play").touch()
    words = ["make", "-s", "play", f"VENV={tmp_path}", f"PLAY=--run-dir {small_run} --port 0"]
    made = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        assert made.stdout is not None
        found = re.search(r"http://\S+", made.stdout.readline())
        assert found
        context = chromium.new_context()
        tab = Tab(context.new_page(), found[0])
        tab.press("d")
        tab.is_clean()
        context.close()
    finally:
        os.killpg(made.pid, signal.SIGINT)
        out, _ = made.communicate(timeout=60)
    assert "session 1 ends after 1 steps" in out
