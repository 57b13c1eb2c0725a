"""The pictures of play in the README and docs/play.md: a screenshot in light and dark, a narrow one, and a screencast.

    PYTHONPATH=.:kernels:engines python -m bench.play_pictures [RUN] [--out FOLDER]

They are of the page as a browser draws it, in the world of RUN or the one that ships. In the screencast somebody walks
for a while, forks the dream again, and lets the agent of phase 3 take over.
"""

from __future__ import annotations

import argparse
import io
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from bench.browsers import Served, browser
from bench.timing import ROOT
from fastdreamer.commands.play_command import EMBEDDED
from fastdreamer.errors import UserError
from fastdreamer.system.files import write_atomic

OUT = ROOT / "docs/pictures"
WALK = ("d", "d", "s", " ", "s", "s", "d", " ", " ", "w", "w", "a", " ", "a", "s", "d") * 2
AGENT_STEPS = 28
WIDE, NARROW, CAST = (1440, 1010), (400, 860), (1180, 700)
CAST_WIDTH = 760
FRAME_MS, LAST_MS = 140, 1500
QUALITY = 55


def opened(chromium: Any, address: str, size: tuple[int, int], scheme: str = "light") -> Any:
    """A page that shows its first pictures."""
    context = chromium.new_context(viewport={"width": size[0], "height": size[1]}, color_scheme=scheme)
    page = context.new_page()
    page.goto(address)
    page.wait_for_selector("body[data-view]")
    return page


def press(page: Any, key: str) -> None:
    """One key, and its picture."""
    before = page.evaluate("[document.body.dataset.n, document.body.dataset.step].join()")
    page.keyboard.press(key)
    page.evaluate("document.activeElement.blur()")
    deadline = time.monotonic() + 10
    while page.evaluate("[document.body.dataset.n, document.body.dataset.step].join()") == before:
        if time.monotonic() > deadline:
            raise UserError("the page does not answer")
        time.sleep(0.01)


def screenshots(chromium: Any, address: str) -> Iterator[tuple[str, bytes]]:
    """Names and PNG files of the page in use."""
    for name, size, scheme in (
        ("play-light", WIDE, "light"),
        ("play-dark", WIDE, "dark"),
        ("play-narrow", NARROW, "light"),
    ):
        page = opened(chromium, address, size, scheme)
        for key in WALK[:14]:
            press(page, key)
        page.evaluate("document.activeElement.blur()")
        time.sleep(0.5)
        yield f"{name}.png", page.screenshot()
        page.context.close()


def screencast(chromium: Any, address: str) -> bytes:
    """An animated WebP file."""
    page = opened(chromium, address, CAST)
    frames = [page.screenshot()]
    page.evaluate("document.activeElement.blur()")
    for key in WALK:
        press(page, key)
        frames.append(page.screenshot())
    press_by_name(page, "Fork the dream")
    frames += [page.screenshot()] * 3
    for key in WALK[:8]:
        press(page, key)
        frames.append(page.screenshot())
    page.locator("#who label", has_text="Phase 3").click()
    page.select_option("#speed", "2")
    for _ in range(AGENT_STEPS):
        press(page, ".")
        frames.append(page.screenshot())
    page.context.close()
    return animated(frames)


def press_by_name(page: Any, name: str) -> None:
    """One button."""
    page.get_by_role("button", name=name).click()
    time.sleep(0.3)


def animated(frames: Sequence[bytes]) -> bytes:
    """PNG files as one animated WebP, made smaller."""
    pictures = [Image.open(io.BytesIO(frame)).convert("RGB") for frame in frames]
    height = round(pictures[0].height * CAST_WIDTH / pictures[0].width)
    small = [picture.resize((CAST_WIDTH, height), Image.Resampling.LANCZOS) for picture in pictures]
    durations = [FRAME_MS] * (len(small) - 1) + [LAST_MS]
    out = io.BytesIO()
    small[0].save(
        out, "WEBP", save_all=True, append_images=small[1:], duration=durations, loop=0, quality=QUALITY, method=6,
        minimize_size=True,
    )  # fmt: skip
    return out.getvalue()


def main(given: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.play_pictures", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("run", type=Path, nargs="?", default=EMBEDDED, help="default: the world that ships")
    parser.add_argument("--out", type=Path, default=OUT)
    parsed = parser.parse_args(given)
    try:
        with Served("--run-dir", str(parsed.run), "--port", "0") as server, browser() as chromium:
            parsed.out.mkdir(parents=True, exist_ok=True)
            for name, picture in screenshots(chromium, server.address):
                write_atomic(parsed.out / name, picture)
                print(parsed.out / name, flush=True)
            write_atomic(parsed.out / "play.webp", screencast(chromium, server.address))
            print(parsed.out / "play.webp", flush=True)
    except UserError as error:
        parser.exit(2, f"{parser.prog}: error: {error}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
