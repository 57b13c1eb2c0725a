"""What torch's caching allocator would take from a GPU for a trace of allocations: reserved memory, not only used.

Source: c10/cuda/CUDACachingAllocator.cpp of torch 2.13, default settings (one stream, no expandable segments). Sizes
are rounded up to 512 bytes; a request of up to 1 MiB is cut from segments of 2 MiB, one below 10 MiB from segments of
20 MiB, and a larger one gets a segment of its own, rounded up to 2 MiB; the smallest free block that is large enough is
taken first, and neighbours are joined again when they are freed. So fragmentation is part of a plan, and no factor.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass

MIB = 2**20
SMALLEST = 512
SMALL = MIB
SMALL_SEGMENT = 2 * MIB
LARGE_SEGMENT = 20 * MIB
OWN_SEGMENT = 10 * MIB


def rounded(size_bytes: int) -> int:
    """What a request occupies inside its segment."""
    return max(SMALLEST, -(-size_bytes // SMALLEST) * SMALLEST)


def segment_of(size_bytes: int) -> int:
    """The segment that is made for a rounded request when no free block holds it."""
    if size_bytes <= SMALL:
        return SMALL_SEGMENT
    if size_bytes < OWN_SEGMENT:
        return LARGE_SEGMENT
    return -(-size_bytes // SMALL_SEGMENT) * SMALL_SEGMENT


@dataclass
class Block:
    """A stretch of a segment; `before` and `after` are its neighbours."""

    size: int
    at: int
    is_small: bool
    is_free: bool = False
    before: Block | None = None
    after: Block | None = None


class Allocator:
    """The bookkeeping of torch's caching allocator, without memory.

    Attributes:
        reserved: bytes in segments.
        used: bytes in blocks that are in use.
    """

    def __init__(self) -> None:
        self.reserved = self.used = 0
        self._free: dict[bool, list[tuple[int, int]]] = {True: [], False: []}  # (size, address), by pool
        self._at: dict[int, Block] = {}

    def allocate(self, size_bytes: int) -> Block:
        """Find or make a block for a request."""
        size = rounded(size_bytes)
        is_small = size <= SMALL
        free = self._free[is_small]
        place = bisect_left(free, (size, -1))
        if place < len(free):
            block = self._at[free.pop(place)[1]]
        else:
            made = segment_of(size)
            block = self._at[self.reserved] = Block(made, self.reserved, is_small)
            self.reserved += made
        rest = block.size - size
        if rest >= SMALLEST if is_small else rest > SMALL:
            other = Block(rest, block.at + size, is_small, True, block, block.after)
            if block.after is not None:
                block.after.before = other
            block.size, block.after = size, other
            self._at[other.at] = other
            insort(free, (other.size, other.at))
        block.is_free = False
        self.used += block.size
        return block

    def release(self, block: Block) -> None:
        """Gives a block back and joins it with its free neighbours."""
        self.used -= block.size
        free = self._free[block.is_small]
        for other in (block.before, block.after):
            if other is None or not other.is_free:
                continue
            free.pop(bisect_left(free, (other.size, other.at)))
            first, second = (other, block) if other is block.before else (block, other)
            first.size += second.size
            first.after = second.after
            if second.after is not None:
                second.after.before = first
            del self._at[second.at]
            block = first
        block.is_free = True
        insort(free, (block.size, block.at))


def replay(trace: Sequence[tuple[int, int]]) -> tuple[int, int, frozenset[int]]:
    """Most bytes reserved, most bytes used, and what was alive then.

    Args:
        trace: (number, bytes) of every allocation in order, (number, -1) where it ends.
    """
    allocator, blocks = Allocator(), dict[int, Block]()
    most, when = 0, 0
    for moment, (number, size) in enumerate(trace):
        if size < 0:
            allocator.release(blocks.pop(number))
            continue
        blocks[number] = allocator.allocate(size)
        if allocator.used > most:
            most, when = allocator.used, moment
    alive = set[int]()
    for number, size in trace[: when + 1]:
        (alive.discard if size < 0 else alive.add)(number)
    return allocator.reserved, most, frozenset(alive)
