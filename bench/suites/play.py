"""Milliseconds of a step of play beside the plain sampler's, flat memory, and what a person in the browser has of it.

    PYTHONPATH=.:kernels:engines python -m bench.suites play [RUN] [--steps 10000] [--browser 60 [--compile on]]

Arms, on the weights of RUN (or the world that ships): `reference` samples, commits and draws a latent step with
`dynamics.sampler` as it stands, in the world as it was loaded; `dream` is the same step as the page has it; `session`
is a whole step of play: the game, its frame encoded, the dream, and what both agents think. --steps plays so many and
prints the process's memory on the way. --browser presses keys in a real browser for so many seconds and prints the
pictures a second and the milliseconds from key to picture, which are wanted to be at least 20 and at most 80 for 95 of
100 keys on two cores at Crafter's size. Not a gate.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.browsers import Served, browser
from bench.suites.command import options
from bench.suites.results import Measured, at_least, at_most, table, write
from bench.timing import Arm, machine, paired
from fastdreamer.commands.play_command import EMBEDDED
from fastdreamer.dynamics.sampler import commit, sample_next
from fastdreamer.errors import UserError
from fastdreamer.play.dream import Dream
from fastdreamer.play.loaded import Loaded, load
from fastdreamer.play.session import Session
from fastdreamer.shapes import CHANNELS, TOKENS

OPTIONS = options(
    "out",
    run_dir={"type": Path, "nargs": "?", "help": "a trained run; default: the world that ships"},
    pairs={"type": int, "default": 20, "help": "of timings"},
    steps={"type": int, "default": 0, "help": "steps over which memory is looked at"},
    browser={"type": int, "default": 0, "metavar": "SECONDS", "help": "play in a browser for so long"},
    compile={"choices": ("on", "off"), "default": "off", "help": "of the browser's server"},
    denoising={"type": int, "help": "steps K in the browser; default: what a session begins with"},
)
LEAST_RATE, MOST_DELAY_MS = 20.0, 80.0
KEYS = "wasd wasdaa"
SPEED = 20  # ticks a second in the browser; each key is a step more
BETWEEN_S = (0.1, 0.25)  # seconds between keys
LOOKS = 10  # at the memory


COLUMNS: dict[str, Callable[[Measured], str]] = {
    "ms": lambda r: f"{r.median_us / 1e3:.2f}",
    "x ref": lambda r: f"{r.speedup:.2f}",
}


def run(chosen: argparse.Namespace) -> None:
    """Measure and print."""
    run_dir = chosen.run_dir or EMBEDDED
    if not run_dir.is_dir():
        raise UserError(f"{run_dir} is not there: name a trained run")
    if not chosen.browser or chosen.steps:
        loaded = load(run_dir)
        rows = timed(loaded, chosen.pairs)
        print(table(rows, COLUMNS), flush=True)
        if chosen.out is not None:
            write(chosen.out, machine(), {}, rows)
        if chosen.steps:
            print(memory(Session(loaded), chosen.steps), flush=True)
    if chosen.browser:
        print(in_browser(run_dir, chosen.browser, chosen.compile, chosen.denoising), flush=True)


def timed(loaded: Loaded, pairs: int) -> list[Measured]:
    """The arms, each in turns with the reference."""
    reference = Arm(plain_step(loaded))
    arms = {"dream": Arm(dream_step(loaded)), "session": Arm(session_step(loaded))}
    name = f"play {loaded.backend.precision} {loaded.size} px K={loaded.world.forcing.sample_steps}"
    rows: list[Measured] = []
    for arm, measured in arms.items():
        found = paired(reference, measured, pairs)
        if not rows:
            rows.append(Measured(name, "reference", "host", 1e6 * found.seconds_a, 0, 0, None, 0.0, 1.0))
        times = 1e6 * found.seconds_b
        rows.append(Measured(name, arm, "host", times, 0, 0, None, 0.0, 1 / found.ratio, noise=found.error))
    return rows


def plain_step(loaded: Loaded) -> Callable[[Any], None]:
    """Plain sampling of a step, its commit and its picture."""
    world, backend, decoder = loaded.world, loaded.backend, loaded.decoder
    assert decoder is not None, "the run has no pixel decoder"
    device, tokens = backend.device, 0 if loaded.newest is None else loaded.newest.token_count
    chunk = torch.zeros(1, 1, world.clock.frames_per_latent, len(world.sizes), dtype=torch.int64, device=device)
    with backend.autocast():
        cache = world.new_cache(1, tokens)
    task = torch.zeros(1, dtype=torch.int64, device=device)

    def step(_: Any) -> None:
        noise = torch.randn(2, 1, TOKENS, CHANNELS, device=device)
        with torch.no_grad(), backend.autocast():
            known = torch.ones(chunk.shape[:3], dtype=torch.bool, device=device)
            labelled = torch.ones(1, dtype=torch.bool, device=device)
            token = world.embed_actions(chunk, known, labelled)
            state = sample_next(world, cache, token[:, 0], noise[0])
            agents = None if loaded.newest is None else loaded.newest.embed_tokens(task)
            commit(world, cache, state[:, None], token, noise[1][:, None], agents)
        with torch.no_grad():
            (decoder(state)[0].clamp(0, 1) * 255).round().to(torch.uint8).cpu()

    return step


def dream_step(loaded: Loaded) -> Callable[[Any], None]:
    """A dream's step, and its pictures."""
    dream = Dream(loaded)
    c, k = loaded.clock.frames_per_latent, len(loaded.space.sizes)
    begun = torch.zeros(1, TOKENS, CHANNELS)
    dream.begin(begun, torch.zeros(1, c, k, dtype=torch.int64), torch.zeros(1, c, dtype=torch.bool), begun, 0)
    chunk = np.zeros((c, k), np.int64)

    def step(_: Any) -> None:
        dream.step(chunk, torch.randn(2, TOKENS, CHANNELS))
        dream.pictures()

    return step


def session_step(loaded: Loaded) -> Callable[[Any], None]:
    """A session's step; an episode that is over begins anew."""
    session, rng = Session(loaded), random.Random(0)

    def step(_: Any) -> None:
        action = [rng.randrange(size) for size in loaded.space.sizes]
        if session.step(action).said["over"] is not None:
            session.start()

    return step


def memory(session: Session, steps: int) -> str:
    """A line: the process's memory while a session is played."""
    rng, found = random.Random(0), list[float]()
    for i in range(steps):
        view = session.step([rng.randrange(size) for size in session.loaded.space.sizes])
        if view.said["over"] is not None:
            session.rewind(100) if i % 2 else session.start()
        if (i + 1) % max(1, steps // LOOKS) == 0:
            found.append(resident_mib())
    return f"memory over {steps} steps, MiB: {' '.join(f'{one:.0f}' for one in found)}"


def resident_mib() -> float:
    """Memory that this process has."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20


def in_browser(run_dir: Path, seconds: int, compiled: str, denoising: int | None) -> str:
    """Lines with what a page measured of itself."""
    rng, rates = random.Random(0), list[float]()
    with Served("--run-dir", str(run_dir), "--port", "0", f"compile={compiled}") as server, browser() as chromium:
        page = chromium.new_context(viewport={"width": 1280, "height": 900}).new_page()
        page.goto(server.address)
        page.wait_for_selector("body[data-view]")
        page.select_option("#speed", str(SPEED))
        if denoising is not None:
            page.select_option("#denoising", str(denoising))
        page.locator("#stage").focus()
        ends, looked = time.monotonic() + seconds, time.monotonic() + 2
        while time.monotonic() < ends:
            page.keyboard.press(rng.choice(KEYS))
            time.sleep(rng.uniform(*BETWEEN_S))
            if "over" in page.evaluate("({...document.getElementById('notice').dataset})"):
                for _ in range(10):
                    page.keyboard.press("<")
                looked = time.monotonic() + 2  # the rate is of the second before
            elif time.monotonic() > looked:
                rates.append(float(page.evaluate("document.body.dataset.rate")))
                looked += 1
        data = page.evaluate("({...document.body.dataset})")
        sizes = page.evaluate("[performance.memory?.usedJSHeapSize ?? 0, document.querySelectorAll('*').length]")
    return "\n".join(
        [
            f"in the browser over {seconds} s: {min(rates):.0f} pictures in the worst second, key to picture "
            f"{data['p50']} ms, a step {data['ms']} ms, page {sizes[0] / 2**20:.0f} MiB, {sizes[1]} elements",
            at_least("pictures a second", statistics.mean(rates), LEAST_RATE),
            at_most("milliseconds from key to picture, 95 of 100", float(data["p95"]), MOST_DELAY_MS),
        ]
    )
