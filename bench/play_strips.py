"""Stretches of play as a picture, real above dreamt, and how often the dream is nearer than the frame at the fork.

    PYTHONPATH=.:kernels:engines python -m bench.play_strips [RUN] [--denoising K] [--out FILE]

Of RUN, or of the world that ships. Nine stretches of 64 steps in worlds that nobody trained on: walking in a square,
keys at random, standing still, sleep, gathering, and the agents of phases 2 and 3. The dream sees one frame alone.
"""

from __future__ import annotations

import argparse
import io
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bench.timing import ROOT
from fastdreamer.commands.play_command import EMBEDDED
from fastdreamer.play.loaded import load
from fastdreamer.play.moment import View
from fastdreamer.play.session import Session
from fastdreamer.system.files import write_atomic

OUT = ROOT / "docs/pictures/play-strips.png"
STEPS = 64
SHOWN = (0, 1, 2, 4, 8, 12, 16, 24, 32, 48, 64)
LEFT, RIGHT, UP, DOWN, DO, SLEEP = 1, 2, 3, 4, 5, 6
SQUARE = ([RIGHT] * 6 + [DOWN] * 6 + [LEFT] * 12 + [UP] * 12 + [RIGHT] * 28)[:STEPS]
GATHER = ([DO] * 4 + [LEFT] + [DO] * 4 + [UP]) * 7
STRETCHES: tuple[tuple[str, int, Sequence[int] | str], ...] = (
    ("walking in a square", 3, SQUARE),
    ("walking in a square", 4, SQUARE),
    ("keys at random", 3, random.Random(0).choices((LEFT, RIGHT, UP, DOWN, DO, DO), k=STEPS)),
    ("keys at random", 4, random.Random(1).choices((LEFT, RIGHT, UP, DOWN, DO, DO), k=STEPS)),
    ("gathering", 6, GATHER[:STEPS]),
    ("standing still", 5, [0] * STEPS),
    ("sleep", 5, [SLEEP] * STEPS),
    ("phase 2", 8, "phase2"),
    ("phase 3", 7, "phase3"),
)
DRAWN = (0, 1, 4, 6, 8)


def played(session: Session, seed: int, keys: Sequence[int] | str, denoising: int) -> list[View]:
    """What came of a stretch: the view at its start, and after every step until its episode is over."""
    session.start(seed=seed)
    views = [session.choose(who=keys if isinstance(keys, str) else "you", denoising=denoising)]
    for step in range(STEPS):
        views.append(session.step(None if isinstance(keys, str) else [keys[step]]))
        if views[-1].said["over"]:
            break
    return views


def nearer(views: Sequence[View]) -> int:
    """The number of steps after which the dream's latents were nearer to the real ones than the first frame's."""
    return sum(view.said["drift"]["dream"] < view.said["drift"]["copy"] for view in views[1:])


def strip(views: Sequence[View]) -> NDArray[np.uint8]:
    """The real frames above the dreamt ones."""
    shown = [views[step] for step in SHOWN if step < len(views)]
    rows = [
        [np.asarray(frames[-1]) for frames in kind] for kind in zip(*((v.real, v.dream) for v in shown), strict=True)
    ]
    return np.pad(
        np.concatenate([np.concatenate(row, 1) for row in rows]), ((0, 10), (0, 0), (0, 0)), constant_values=255
    )


def main(given: Sequence[str] | None = None) -> int:
    """Play, draw and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.play_strips", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("run_dir", nargs="?", type=Path, default=EMBEDDED)
    parser.add_argument("--denoising", type=int, help="steps K of the dream; default: as the world was trained")
    parser.add_argument("--out", type=Path, default=OUT)
    chosen = parser.parse_args(given)
    session, strips, sums = Session(load(chosen.run_dir), seed=1), [], [0, 0]
    denoising = chosen.denoising or session.loaded.config.forcing.sample_steps
    for number, (name, seed, keys) in enumerate(STRETCHES):
        views = played(session, seed, keys, denoising)
        sums = [sums[0] + nearer(views), sums[1] + len(views) - 1]
        print(f"{name:20} world {seed}: nearer than the first frame after {nearer(views)} of {len(views) - 1} steps")
        if number in DRAWN:
            strips.append(strip(views))
    print(f"{'all':20}         {sums[0]} of {sums[1]}")
    width = max(one.shape[1] for one in strips)
    whole = [np.pad(one, ((0, 0), (0, width - one.shape[1]), (0, 0)), constant_values=255) for one in strips]
    picture = io.BytesIO()
    Image.fromarray(np.concatenate(whole)).save(picture, "PNG", optimize=True)
    write_atomic(chosen.out, picture.getvalue())
    print(f"wrote {chosen.out}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
