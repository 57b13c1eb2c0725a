"""The report of many episodes, with few."""

from __future__ import annotations

from typing import Any

import pytest

from bench.suites.command import main


@pytest.mark.slow
def test_every_part_says_what_it_took(capfd: Any) -> None:
    assert main(["many_episodes", "--episodes", "20", "--recordings", "12"]) == 0
    said = capfd.readouterr().out.splitlines()
    for part in ("inspect ", "open, ram", "open, disk", "  500 batches", "encode, tenth 10"):
        assert any(line.startswith(part) for line in said), part


def test_numbers_that_cannot_be_are_one_line(capsys: Any) -> None:
    for given in (["--recordings", "5"], ["--steps", "1"], ["--episodes", "-1"]):
        with pytest.raises(SystemExit) as left:
            main(["many_episodes", *given])
        assert left.value.code == 2 and "give --episodes" in capsys.readouterr().err
