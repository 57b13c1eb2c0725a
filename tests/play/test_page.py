"""The page in a real browser, on made-up sessions that note what arrives."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import pytest

from play.browsers import serving
from play.sockets import until
from play.stand_in import StandIn
from play.tabs import Tab

pytestmark = pytest.mark.slow


def noted_in(made: list[StandIn]) -> Callable[[int], StandIn]:
    """Makes sessions, each of which is left in the list."""

    def make(number: int) -> StandIn:
        made.append(StandIn())
        return made[-1]

    return make


def test_a_hundred_keys_arrive_in_order(chromium, shot):
    made: list[StandIn] = []
    keys = ["d", "a", "w", "s", " ", "ArrowLeft", "1", "t", "p", "q"] * 10
    values = {"d": 2, "a": 1, "w": 3, "s": 4, " ": 5, "ArrowLeft": 1, "1": 11, "t": 8, "p": 10, "q": 0}
    with serving(noted_in(made)) as server:
        context = chromium.new_context()
        tab = Tab(context.new_page(), server.address)
        tab.press(*keys, pause=0.005)
        assert made[0].acted == [(values[key],) for key in keys]
        tab.is_clean()
        context.close()


def test_what_agents_think_comes_after_the_pictures_and_is_shown(chromium):
    with serving(lambda number: StandIn()) as server:
        context = chromium.new_context()
        tab = Tab(context.new_page(), server.address)
        for step in range(1, 4):
            tab.press("d")
            tab.until(lambda: tab.data("thought") == tab.data("view"), "thoughts")
            tab.until(lambda: tab.says("value-now") == f"{1 + math.cos(step / 9):.2f}", "value")  # noqa: B023
            assert tab.says("drift-dream") == f"{0.04 * step**0.5:.3f}"
        tab.is_clean()
        context.close()


def test_charts_are_drawn_a_few_times_a_second_however_many_steps_there_are(chromium):
    with serving(lambda number: StandIn()) as server:
        context = chromium.new_context()
        tab = Tab(context.new_page(), server.address)
        began = time.monotonic()
        tab.page.evaluate(
            """() => {
                const pen = CanvasRenderingContext2D.prototype, clear = pen.clearRect;
                window.drawn = 0;
                pen.clearRect = function (...box) {
                    window.drawn += this.canvas.id === "value";
                    clear.apply(this, box);
                };
            }"""
        )
        tab.page.select_option("#speed", "20")
        at = tab.number("step")
        tab.until(lambda: tab.number("step") >= at + 30, "30 steps")
        drawn, passed = tab.page.evaluate("window.drawn"), time.monotonic() - began
        assert 2 <= drawn <= 2 + 5 * passed
        context.close()


def test_keys_go_to_the_game_again_after_a_pointer_chose(chromium):
    made: list[StandIn] = []
    with serving(noted_in(made)) as server:
        context = chromium.new_context()
        tab = Tab(context.new_page(), server.address)
        for who in ("Random", "You"):
            tab.page.locator("#who label", has_text=who).click()
            tab.until(lambda: tab.data("who") == who.lower(), who)  # noqa: B023
        played = len(made[0].acted)
        tab.press(" ")
        assert made[0].acted[played:][-1:] == [(5,)], "the space bar is the game's, not the switch's"
        tab.page.locator("#denoising").click()
        tab.page.select_option("#denoising", "2")
        tab.press("w")
        assert made[0].acted[-1] == (3,), "the list is not typed into"
        tab.page.locator("#begin").click()
        tab.page.locator("#any").click()
        tab.until(lambda: tab.number("step") == 0, "another world")
        tab.press(" ")
        assert made[0].acted[-1] == (5,), "the button is not pressed again"
        context.close()


def test_buttons_act_like_keys(chromium):
    made: list[StandIn] = []
    with serving(noted_in(made)) as server:
        context = chromium.new_context(has_touch=True)
        tab = Tab(context.new_page(), server.address)
        button = tab.page.locator("#keys button", has_text="place table")
        button.click()
        button.focus()
        tab.page.keyboard.press("Enter")
        tab.page.locator("#keys button", has_text="move up").tap()
        tab.until(lambda: tab.number("n") == 3)
        assert made[0].acted == [(8,), (8,), (3,)]
        context.close()


def test_minecraft_has_its_own_keys_and_the_mouse(chromium, shot):
    made: list[StandIn] = []

    def make(number: int) -> StandIn:
        made.append(StandIn("vpt", c=4, has_environment=False))
        return made[-1]

    with serving(make) as server:
        context = chromium.new_context(viewport={"width": 1280, "height": 1000})
        tab = Tab(context.new_page(), server.address)
        names = [one.name for one in made[0].components]
        assert "No simulator here" in tab.says("no-real")
        tab.page.keyboard.down("w")
        tab.page.keyboard.down(" ")
        tab.until(lambda: tab.number("n") == 2)
        chord = made[0].acted[1]
        pressed = {names[i] for i, value in enumerate(chord) if value == 1 and "camera" not in names[i]}
        assert pressed == {"forward", "jump"}
        tab.page.keyboard.up("w")
        tab.page.keyboard.up(" ")
        tab.press("ArrowRight")
        yaw = names.index("camera_yaw")
        turned = made[0].acted[-1][yaw]
        assert float(made[0].components[yaw].labels[turned]) > 1
        box = tab.page.locator("#dream").bounding_box()
        tab.page.mouse.move(box["x"] + 50, box["y"] + 50)
        tab.page.mouse.down()
        tab.page.mouse.move(box["x"] + 20, box["y"] + 50)
        tab.until(lambda: tab.number("n") == 4)
        tab.page.mouse.up()
        assert float(made[0].components[yaw].labels[made[0].acted[-1][yaw]]) < -1
        shot(tab, "minecraft")
        tab.is_clean()
        context.close()


def test_an_episode_that_is_over_says_so(chromium, shot):
    def make(number: int) -> StandIn:
        made = StandIn()
        made.over_at = 3
        return made

    with serving(make) as server:
        context = chromium.new_context(viewport={"width": 1280, "height": 1000})
        tab = Tab(context.new_page(), server.address)
        tab.press("d", "d", "d", "d")
        assert tab.number("step") == 3 and "You died" in tab.says("notice")
        shot(tab, "over")
        tab.page.keyboard.press(",")
        tab.until(lambda: tab.number("step") == 2 and tab.says("notice") == "")
        context.close()


def test_a_fifth_tab_is_told_and_can_come_back(chromium, shot):
    with serving(lambda number: StandIn()) as server:
        context = chromium.new_context(viewport={"width": 1280, "height": 1000})
        tabs = [Tab(context.new_page(), server.address) for _ in range(4)]
        late = context.new_page()
        late.goto(server.address)
        late.locator("#lost button").wait_for()
        assert "4 sessions are open" in late.locator("#lost").inner_text()
        tabs[0].page.close()
        until(lambda: any(room.left is not None for room in server.rooms._rooms.values()))
        late.locator("#lost button").click()
        late.wait_for_selector("body[data-state=open]")
        context.close()


def test_the_token_s_address_works_and_does_not_stay_in_sight(chromium):
    with serving(lambda number: StandIn(), has_token=True) as server:
        context = chromium.new_context()
        page = context.new_page()
        assert page.goto(server.address.partition("?")[0]).status == 403
        page.goto(server.address)
        page.wait_for_selector("body[data-view]")
        assert "token" not in page.url
        assert page.evaluate("document.cookie") == ""
        page.reload()
        page.wait_for_selector("body[data-view]")
        context.close()
