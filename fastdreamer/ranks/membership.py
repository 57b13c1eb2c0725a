"""The processes that train one model together, as each of them sees them; alone, nothing happens.

Every rank draws the whole batch with all its randomness, takes its own pieces of it, and gradients and figures are
added up over the ranks: a loss is a sum over rows, each times its share of the whole batch. So all ranks hold the same
gradients, and everything behind them (clipping, optimisers, skips, running scales, averages) runs alike on all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from torch import Tensor, nn

    from fastdreamer.ranks.sharding import Shards

T = TypeVar("T")
Figures = list[dict[str, "Tensor"]]
Groups = Mapping[str, Mapping[str, "Tensor"]]


class Ranks:
    """One process by itself: what several agree on, it decides; what they add up, it has.

    Attributes:
        rank, world: its number, and how many there are.
        check_every: steps between comparisons of what all must hold alike; 0: at the start and at every checkpoint.
    """

    rank, world = 0, 1
    check_every = 0

    @property
    def is_alone(self) -> bool:
        """Whether there are no others."""
        return self.world == 1

    @property
    def is_main(self) -> bool:
        """Whether this is the rank that decides, prints and writes."""
        return self.rank == 0

    def stopped_by(self, requests: Sequence[int]) -> int:
        """The signal by which all stop after the step in hand, of those that came to this process; 0 without one."""
        return requests[0] if requests else 0

    def listen(self, requests: Sequence[int]) -> None:
        """Tells the others in every step from now on which signals came: a list that grows."""

    def rows(self, count: int) -> tuple[int, int]:
        """First and last row (exclusive) of `count` that are this rank's."""
        return count * self.rank // self.world, count * (self.rank + 1) // self.world

    def share(self, pieces: Sequence[T]) -> Sequence[T]:
        """This rank's pieces of a batch."""
        first, last = self.rows(len(pieces))
        return pieces[first:last]

    def at(self, doing: str) -> None:
        """Says where this rank is, for the line about one that is not heard of any more."""

    @contextmanager
    def together(self, parameters: Sequence[nn.Parameter] = ()) -> Iterator[None]:
        """Work that memory may run out in; where it does so on one rank, it has on all.

        Of `parameters` it is settled which have a gradient on any rank, for `add_up`.
        """
        yield

    def add_up(self, parameters: Sequence[nn.Parameter], batches: Figures) -> Figures:
        """Adds the parameters' gradients and the batches' figures up over the ranks."""
        return batches

    def gather(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """The rows of all ranks, in order, of tensors of one shape."""
        return tensors

    def shard(self, model: nn.Module, transformer: nn.Module, is_bf16: bool) -> Shards:
        """Shards the blocks of a transformer in `model` over the ranks, in place; one rank has all of them."""
        from fastdreamer.ranks.sharding import WHOLE

        return WHOLE

    def from_main(self, name: str, value: T) -> T:
        """The main rank's value of something that a JSON text holds; `name` says what it is."""
        return value

    def collect(self, name: str, value: T) -> list[T]:
        """Every rank's value of something that a JSON text holds, in order, on the main rank; on others none."""
        return [value]

    def meet(self, name: str) -> None:
        """Waits until every rank has come here; `name` says where."""

    def checks(self, done: int) -> bool:
        """Whether all compare what they hold after `done` steps, be there a checkpoint or not."""
        return bool(self.check_every) and done % self.check_every == 0

    def compare(self, groups: Groups, when: str) -> None:
        """Ends all ranks where what they must hold alike is not the same, bit for bit."""

    def not_finite(self) -> list[int]:
        """The ranks whose own gradient or loss was not finite in the newest step."""
        return []

    def begin(self, about: Mapping[str, str], timeout_s: float, check_every: int, device: Any) -> None:
        """Opens what the ranks speak over, once each has passed its own checks and holds what it trains.

        Args:
            about: what all must have read alike (the configuration, the store), as hashes by name.
            timeout_s: the longest that a rank waits for another.
            check_every: see above.
            device: the device of gradients.
        """

    def wait(self, name: str) -> None:
        """Waits for the main rank to say `name`."""

    def say(self, name: str) -> None:
        """Lets the others go on that wait for `name`."""

    def end(self, line: str, status: int, is_final: bool = False, is_of_all: bool = False) -> bool:
        """Ends all ranks; whether the line was printed (or need not be), so that the caller does not.

        Args:
            line: what went wrong; empty where nobody needs to be told.
            status: the exit code.
            is_final: another start would come to the same.
            is_of_all: the line is about no one rank, or names it.
        """
        return False

    def leave(self) -> None:
        """Lets go of the others, with whom all is done."""


ALONE = Ranks()

_joined: list[Ranks] = []  # of this process, while a command runs that ranks may run together


def current() -> Ranks:
    """The ranks that this process has joined; alone without any."""
    return _joined[-1] if _joined else ALONE


def join(make: Callable[[], Ranks]) -> Ranks:
    """Joins the others; what `make` gives is current until `leave`."""
    _joined.append(make())
    return _joined[-1]


def leave() -> None:
    """Leaves the others, once this process has nothing more to say."""
    while _joined:
        _joined.pop().leave()
