"""The README's picture shows a run's real frames above its imagined ones, and says in a line what it lacks."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench.filmstrip import BETWEEN, GAP, OUT, filmstrip, main
from fastdreamer.plotting.png import png

SIDE, SHOWN, GIVEN = 8, 3, 1


def write_pictures(run: Path, rows: tuple[str, ...] = ("real", "reconstructed", "imagined")) -> None:
    """Two crops of three frames; every pixel says which crop, row and frame it is of."""
    folder = run / "pictures"
    folder.mkdir(parents=True)
    strips = []
    for crop in range(2):
        names = {row: f"crop{crop}_{row}.png" for row in rows}
        for row, name in names.items():
            frames = [np.full((SIDE, SIDE, 3), value(crop, row, frame), np.uint8) for frame in range(SHOWN)]
            (folder / name).write_bytes(png(np.concatenate(frames, axis=1)))
        strips.append({"episode": f"e{crop}", "start": 0, "error": 0.5, "rows": names})
    about = {"context": GIVEN, "steps": SHOWN, "shown": list(range(SHOWN)), "frames_per_latent": 1, "strips": strips}
    (folder / "pictures.json").write_text(json.dumps(about))


def value(crop: int, row: str, frame: int) -> int:
    return 100 * crop + 10 * (row == "imagined") + frame


def test_real_stands_above_imagined_with_a_gap_where_imagination_begins(tmp_path: Path) -> None:
    write_pictures(tmp_path)
    picture = filmstrip(tmp_path / "pictures")
    assert picture.shape == (4 * SIDE + BETWEEN, SHOWN * SIDE + GAP, 3)
    columns = [0, GIVEN * SIDE + GAP, 2 * SIDE + GAP]
    for crop, row, top in ((0, "real", 0), (0, "imagined", SIDE), (1, "real", 2 * SIDE + BETWEEN)):
        assert [picture[top, x, 0] for x in columns] == [value(crop, row, frame) for frame in range(SHOWN)]
    assert (picture[:, GIVEN * SIDE : GIVEN * SIDE + GAP] == 255).all() and (picture[2 * SIDE] == 255).all()


def test_the_command_writes_the_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_pictures(tmp_path)
    out = tmp_path / "strip.png"
    assert main([str(tmp_path), "--out", str(out)]) == 0 and str(out) in capsys.readouterr().out
    assert Image.open(out).size == (SHOWN * SIDE + GAP, 4 * SIDE + BETWEEN)


@pytest.mark.parametrize("lacks", ["folder", "real", "file"])
def test_what_is_missing_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], lacks: str) -> None:
    if lacks != "folder":
        write_pictures(tmp_path, ("imagined",) if lacks == "real" else ("real", "imagined"))
    if lacks == "file":
        (tmp_path / "pictures/crop1_real.png").unlink()
    with pytest.raises(SystemExit) as stopped:
        main([str(tmp_path), "--out", str(tmp_path / "strip.png")])
    said = capsys.readouterr().err
    assert stopped.value.code == 2 and said.count("\n") == 1 and str(tmp_path) in said
    assert not (tmp_path / "strip.png").exists()


def test_the_committed_picture_has_the_shape_of_the_demo() -> None:
    """Three crops of 16 frames of 64 x 64."""
    assert Image.open(OUT).size == (16 * 64 + GAP, 3 * 2 * 64 + 2 * BETWEEN)
