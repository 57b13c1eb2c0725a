"""The replayed allocator keeps the rules of the real one."""

from __future__ import annotations

import random

from fastdreamer.tools.planning.allocator import MIB, Allocator, replay


def test_small_requests_share_a_segment_and_large_ones_get_their_own() -> None:
    allocator = Allocator()
    allocator.allocate(1)
    assert (allocator.used, allocator.reserved) == (512, 2 * MIB)
    allocator.allocate(MIB)
    assert allocator.reserved == 2 * MIB
    allocator.allocate(MIB)  # what is left of the segment is too small
    assert allocator.reserved == 4 * MIB
    allocator.allocate(MIB + 1)
    assert allocator.reserved == 24 * MIB
    allocator.allocate(9 * MIB)
    assert allocator.reserved == 24 * MIB
    allocator.allocate(11 * MIB)
    assert allocator.reserved == 36 * MIB
    allocator.allocate(11 * MIB + 1)
    assert allocator.reserved == 48 * MIB


def test_the_smallest_block_that_is_large_enough_is_taken() -> None:
    allocator = Allocator()
    blocks = [allocator.allocate(size * MIB) for size in (64, 32, 48)]
    for block in blocks:
        allocator.release(block)
    assert allocator.allocate(40 * MIB).at == blocks[2].at
    assert allocator.reserved == 144 * MIB


def test_a_large_block_is_split_only_where_more_than_a_mebibyte_remains() -> None:
    allocator = Allocator()
    allocator.release(allocator.allocate(32 * MIB))
    whole = allocator.allocate(31 * MIB)
    assert whole.size == 32 * MIB
    allocator.release(whole)
    assert allocator.allocate(30 * MIB).size == 30 * MIB and allocator.used == 30 * MIB


def test_neighbours_are_joined_when_they_are_freed() -> None:
    allocator = Allocator()
    big = allocator.allocate(60 * MIB)
    allocator.release(big)
    parts = [allocator.allocate(20 * MIB) for _ in range(3)]
    assert allocator.reserved == 60 * MIB
    for block in (parts[0], parts[2], parts[1]):
        allocator.release(block)
    assert allocator.allocate(60 * MIB).size == 60 * MIB and allocator.reserved == 60 * MIB


def test_pieces_too_small_for_what_comes_are_fragmentation() -> None:
    mixed = [(1, 16 * MIB), (2, 16 * MIB), (1, -1), (3, 18 * MIB)]
    reserved, used, alive = replay(mixed)
    assert (reserved, used, alive) == (50 * MIB, 34 * MIB, {2, 3})


def test_any_trace_keeps_used_below_reserved_and_repeats_without_more() -> None:
    for seed in range(20):
        chance = random.Random(seed)
        allocator, alive, script = Allocator(), {}, []
        for number in range(400):
            if alive and chance.random() < 0.5:
                gone = chance.choice(list(alive))
                allocator.release(alive.pop(gone))
                script.append((gone, -1))
            else:
                size = int(2 ** chance.uniform(5, 26))
                alive[number] = allocator.allocate(size)
                script.append((number, size))
            assert allocator.used <= allocator.reserved
        for block in alive.values():
            allocator.release(block)
        assert allocator.used == 0
        assert sum(size for pool in allocator._free.values() for size, _ in pool) == allocator.reserved
        reserved = allocator.reserved
        again: dict[int, object] = {}
        for number, size in script:
            if size < 0:
                allocator.release(again.pop(number))  # type: ignore[arg-type]
            else:
                again[number] = allocator.allocate(size)
        assert allocator.reserved <= 1.25 * reserved
