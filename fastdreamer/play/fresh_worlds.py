"""Chooses the world that an episode is played in."""

from __future__ import annotations

from collections.abc import Set
from pathlib import Path

from fastdreamer.errors import UserError
from fastdreamer.play.arguments import whole
from fastdreamer.play.recorder import seeds_in

FIRST_WORLD = 20_000_000


class Worlds:
    """Numbers of worlds, each given once.

    Args:
        taken: the run's own, recorded or for evaluation.
        record: a folder of recordings whose worlds were played; None: nothing is recorded.
    """

    def __init__(self, taken: Set[int], record: Path | None) -> None:
        self._taken, self._record = taken, record
        self._next, self._begun = FIRST_WORLD, set[int]()

    def choose(self, seed: int | None) -> int:
        """A world's number: the wanted one, or the next that nobody has played.

        Raises:
            UserError: if there is no such world, or it is the run's own and what is played would be recorded.
        """
        if seed is not None:
            if (number := whole("seed", seed)) >= 2**31:
                raise UserError(f"seed is {number}; worlds have numbers below 2^31")
            if self._record is not None and number in self._taken:
                raise UserError(f"world {number} is one of the run's own, recorded or for evaluation: choose another")
            return number
        there = self._taken | self._begun | (seeds_in(self._record) if self._record is not None else set())
        while self._next in there:
            self._next += 1
        self._begun.add(self._next)
        return self._next
