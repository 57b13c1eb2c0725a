"""Orders and shares that are functions of a number alone, so that a data position is one integer.

Nothing here has a state: batch i can be made first, last or twice, by any thread, and is always the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from hashlib import sha256

import torch
from jaxtyping import Int
from torch import Tensor


def derived_seed(*parts: object) -> int:
    """A seed of 63 bits for one purpose; other parts give an unrelated one."""
    return int.from_bytes(sha256(repr(parts).encode()).digest()[:8], "big") >> 1


class Share:
    """A share of a sequence, spread evenly: of any n things in a row it takes floor(n share) or one more.

    Exact in the long run, with whole-number arithmetic, from a seeded offset.
    """

    def __init__(self, share: float, seed: int) -> None:
        fraction = Fraction(str(share))
        self.per, self.of = fraction.numerator, fraction.denominator
        self.offset = seed % self.of

    def before(self, count: int) -> int:
        """How many of the first `count`."""
        return (count * self.per + self.offset) // self.of


class Starts:
    """Every (episode, start) of a crop length, each once an epoch, in a permutation made of seed and epoch.

    The permutation of the epoch in hand is held whole: half a million starts (all of MineRL at 8 frames a step) are
    4 MB and 10 ms an epoch, so nothing cleverer is worth its code.
    """

    def __init__(self, episodes: Sequence[int], steps: Int[Tensor, " e"], length: int, seed: int) -> None:
        self.episodes = torch.tensor(episodes)
        counts = (steps[self.episodes] - length + 1).clamp(min=1)  # a shorter episode is padded to one crop
        self.ends = counts.cumsum(0)
        self.firsts = self.ends - counts
        self.size = int(self.ends[-1])
        self.seed = seed
        self._held: tuple[int, Tensor] = (-1, torch.empty(0))

    def take(self, first: int, count: int) -> tuple[Int[Tensor, " b"], Int[Tensor, " b"]]:
        """Episodes and starts of crops number first .. first+count-1, counted over all epochs."""
        numbers = torch.arange(first, first + count)
        epochs = range(first // self.size, (first + count - 1) // self.size + 1)
        return self.locate(
            torch.cat([self._permutation(e)[numbers[numbers // self.size == e] % self.size] for e in epochs])
        )

    def locate(self, picks: Int[Tensor, " b"]) -> tuple[Int[Tensor, " b"], Int[Tensor, " b"]]:
        """Episode and start of each number below `size`."""
        place = torch.searchsorted(self.ends, picks, right=True)
        return self.episodes[place], picks - self.firsts[place]

    def within(self, places: Int[Tensor, " b"], generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """A random start of each of the given places in `episodes`."""
        counts = self.ends[places] - self.firsts[places]
        return self.episodes[places], (torch.rand(len(places), generator=generator).double() * counts).long()

    def _permutation(self, epoch: int) -> Int[Tensor, " s"]:
        if self._held[0] != epoch:
            generator = torch.Generator().manual_seed(derived_seed(self.seed, epoch))
            self._held = epoch, torch.randperm(self.size, generator=generator)
        return self._held[1]
