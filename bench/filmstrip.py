"""The README's picture: what really came above what was imagined, from the pictures that `eval` leaves in a run.

    PYTHONPATH=.:kernels:engines python -m bench.filmstrip runs/demo [--out FILE]

The crops are those of the report: the lower quartile, the median and the upper quartile of the imagined error, so they
are neither the best nor the worst. The first frames are given; a gap stands where imagination begins.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from numpy import ndarray
from PIL import Image

from bench.timing import ROOT
from fastdreamer.errors import UserError
from fastdreamer.plotting.png import png
from fastdreamer.run.run_files import PICTURE_FOLDER, PICTURES
from fastdreamer.system.files import write_atomic

OUT = ROOT / "docs/pictures/filmstrip.png"
ROWS = ("real", "imagined")
GAP, BETWEEN = 6, 10  # white pixels before the first imagined frame, and between crops


def filmstrip(pictures: Path) -> UInt8[ndarray, "h w 3"]:
    """Every crop of a run's `pictures` folder, its real frames above the imagined ones.

    Raises:
        UserError: if the folder or one of its files is not there, or a crop has no real frames.
    """
    about = PICTURES.read(pictures.parent, remedy="no picture")
    if not about:
        raise UserError(
            f"{pictures} has no pictures.json: evaluate the run first, in which the pixel decoder is trained"
        )
    given = sum(step < about["context"] for step in about["shown"])
    strips: list[UInt8[ndarray, "h w 3"]] = []
    for crop in about["strips"]:
        if strips:
            strips.append(_white(BETWEEN, strips[0].shape[1]))
        for row in ROWS:
            if row not in crop["rows"]:
                raise UserError(f"{pictures}: crop {crop['episode']} has no {row} frames, so there is nothing to show")
            strip = _read(pictures / crop["rows"][row])
            at = strip.shape[1] // len(about["shown"]) * given
            strips.append(np.concatenate([strip[:, :at], _white(strip.shape[0], GAP), strip[:, at:]], axis=1))
    return np.concatenate(strips)


def _read(file: Path) -> UInt8[ndarray, "h w 3"]:
    try:
        return np.asarray(Image.open(file).convert("RGB"))
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error}") from error


def _white(height: int, width: int) -> UInt8[ndarray, "h w 3"]:
    return np.full((height, width, 3), 255, np.uint8)


def main(given: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.filmstrip", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("run", type=Path, help="a run directory that was evaluated, such as runs/demo")
    parser.add_argument("--out", type=Path, default=OUT)
    parsed = parser.parse_args(given)
    try:
        write_atomic(parsed.out, png(filmstrip(parsed.run / PICTURE_FOLDER)))
    except UserError as error:
        parser.exit(2, f"{parser.prog}: error: {error}\n")
    print(parsed.out)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
