"""A page in a browser, as a person sees it."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from typing import Any

from fastdreamer.play.ticker import MOST_WAITING

WAIT_S = 60.0


class Tab:
    """A page, and what a person sees of it."""

    def __init__(self, page: Any, address: str) -> None:
        self.page, self.address = page, address
        self.wrong: list[str] = []
        self.asked: list[str] = []
        self.may_lose = False
        page.on("console", lambda said: self.wrong.append(said.text) if said.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: self.wrong.append(str(error)))
        page.on("request", lambda request: self.asked.append(request.url))
        page.on("websocket", lambda socket: self.asked.append(socket.url.replace("ws://", "http://")))
        page.goto(address)
        self.until(lambda: self.data("state") == "open" and self.data("view") is not None)

    def data(self, name: str) -> str | None:
        found: str | None = self.page.evaluate("name => document.body.dataset[name] ?? null", name)
        return found

    def number(self, name: str) -> int:
        return int(self.data(name) or -1)

    def until(self, holds: Callable[[], bool], what: str = "") -> None:
        deadline = time.monotonic() + WAIT_S
        while not holds():
            assert time.monotonic() < deadline, (what, self.page.evaluate("({...document.body.dataset})"))
            time.sleep(0.02)

    def press(self, *keys: str, pause: float = 0.0) -> None:
        """Press keys, no more than may wait for their steps, and wait for the step of the last one."""
        n, half = self.number("n"), MOST_WAITING // 2 - 1
        for i, key in enumerate(keys):
            if i % half == 0:
                self.until(lambda: self.number("n") >= n + i - half, "steps")  # noqa: B023
            self.page.keyboard.press(key)
            time.sleep(pause)
        self.until(lambda: self.number("n") == n + len(keys), f"{len(keys)} keys")

    def picture(self, name: str) -> str:
        pixels = self.page.evaluate("name => document.getElementById(name).toDataURL()", name)
        return hashlib.sha256(pixels.encode()).hexdigest()

    def pictures(self) -> tuple[str, str]:
        return self.picture("real"), self.picture("dream")

    def says(self, id: str) -> str:
        text: str = self.page.locator(f"#{id}").inner_text()
        return text

    def is_clean(self) -> None:
        wrong = [line for line in self.wrong if not (self.may_lose and "WebSocket connection" in line)]
        assert wrong == []
        assert self.asked and [url for url in self.asked if not url.startswith(self.address)] == []


CONTRAST = """(() => {
  const rgb = (text) => (text.match(/[\\d.]+/g) ?? []).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((v) => v / 255)
    .map((v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = (one) => { for (; one; one = one.parentElement) { const c = rgb(getComputedStyle(one).backgroundColor);
    if (c.length === 3 || c[3] === 1) return c; } return [255, 255, 255]; };
  return [...document.querySelectorAll("h1, h2, h3, p, dt, dd, span, button, label, output")].filter((one) => {
    const isText = [...one.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
    if (!isText || !one.checkVisibility()) return false;
    if (one.closest(":disabled")) return false;
    const [a, b] = [light(rgb(getComputedStyle(one).color)), light(ground(one))].sort((x, y) => y - x);
    return (a + 0.05) / (b + 0.05) < 4.5;
  }).map((one) => one.id || one.textContent);
})()"""
"""Texts whose contrast is below WCAG's 4.5 to 1."""
