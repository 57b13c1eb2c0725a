"""Real edits of the timed path turn the gate red: two of them here, all with `python -m bench.gate.plant`."""

from __future__ import annotations

import pytest

from bench.gate.plant import PLANTS, caught, main
from bench.timing import ROOT


def test_every_edit_has_its_place_in_the_code() -> None:
    for name, plant in PLANTS.items():
        text = (ROOT / plant.file).read_text()
        assert text.count(plant.old) == 1 and plant.new != plant.old, name


def test_an_unknown_plant_is_one_line_and_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["weed"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", ["launch", "item"])
def test_an_edit_of_the_timed_path_is_red_and_named(name: str) -> None:
    is_caught, red = caught(PLANTS[name])
    assert is_caught and len(red) <= 3, red
