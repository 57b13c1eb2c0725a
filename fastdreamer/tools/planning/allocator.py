"""What torch's caching allocator would take from a GPU for a trace of allocations: reserved memory, not only used.

Source: c10/cuda/CUDACachingAllocator.cpp of torch 2.13, default settings (one stream, no expandable segments). Sizes
are rounded up to 512 bytes; a request of up to 1 MiB is cut from segments of 2 MiB, one below 10 MiB from segments of
20 MiB, and a larger one gets a segment of its own, rounded up to 2 MiB; the smallest free block that is large enough is
taken first, and neighbours are joined again when they are freed. So fragmentation is part of a plan, and no factor.
The trace is `Tracker`'s: every storage that operations make and when it ends, for fake tensors and real ones alike.
"""

from __future__ import annotations

import weakref
from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from fastdreamer_kernels import reference
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fastdreamer.ranks.sharding import is_part

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
    """Most bytes reserved, most bytes used, and what was alive then, of a trace as `Tracker` has it."""
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


MADE_UP = {torch.bool: True, torch.int64: 1, torch.float32: 0.5}
"""What a fake tensor's value is taken for where the host asks for one."""
EMPTY = -1
FLASH_ROWS = 128
"""Queries that the fused attention's backward pass pads a sequence to."""


class Tracker(TorchDispatchMode):
    """Records storages while it is active.

    What an operation takes inside and gives back before it ends is not seen, but for two that matter: the two-hot
    losses' plain version on a CPU, and the fused attention's backward pass on a GPU.

    Attributes:
        trace: (number, bytes) of every storage in order, (number, -1) where it ends.
        refilled: the numbers of storages that were empty before.

    Args:
        is_gpu: the operations stand for those of a GPU (see `stand_in.py`).
        is_fake: tensors have no values, so that the host is given made-up ones.
    """

    def __init__(self, is_gpu: bool, is_fake: bool = True) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.is_gpu, self.is_fake = is_gpu, is_fake
        self.trace: list[tuple[int, int]] = []
        self.refilled: set[int] = set()
        self._alive: dict[int, tuple[int, Any]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs the operation and notes what it made."""
        if func is torch.ops.prim.device.default:  # asked so often that the way down would be most of the time
            return args[0].fake_device if isinstance(args[0], FakeTensor) else func(*args)
        if func is torch.ops.aten._local_scalar_dense.default and self.is_fake:
            return MADE_UP[args[0].dtype]
        if func is torch.ops.fastdreamer.two_hot.default and not self.is_gpu and self.is_fake:
            with self:
                return _plain_two_hot(*args)
        if func is torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward.default and self.is_gpu:
            with self:
                _flash_backward_space(args[1], args[2])
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor) and not is_part(tensor):  # whose local tensor is seen by itself
                self.number(tensor)
        return out

    def number(self, tensor: Tensor) -> int:
        """The number of a tensor's storage; one that is new gets the next."""
        storage = tensor.untyped_storage()
        key: int = storage._cdata
        if key not in self._alive:
            number = len(self.trace)  # unique: a trace never shrinks
            self.trace.append((number, storage.nbytes()))
            self._alive[key] = number, weakref.ref(storage, lambda _: self._ended(key))
        return self._alive[key][0]

    def numbers(self, tensors: Iterable[Tensor]) -> frozenset[int]:
        """Numbers of the storages of several tensors."""
        return frozenset(map(self.number, tensors))

    @contextmanager
    def resizes(self) -> Iterator[None]:
        """Sees storages that are emptied and filled again, as FSDP2 does with a block's weights."""
        plain = torch.UntypedStorage.resize_

        def resize(storage: torch.UntypedStorage, size: int) -> Any:
            number, ref = self._alive.pop(storage._cdata, (EMPTY, weakref.ref(storage)))
            if number != EMPTY:
                self.trace.append((number, -1))
            number = len(self.trace) if size else EMPTY
            if size:
                self.trace.append((number, size))
                self.refilled.add(number)
            self._alive[storage._cdata] = number, ref
            return plain(storage, size)

        torch.UntypedStorage.resize_ = resize  # type: ignore[method-assign, assignment]
        try:
            yield
        finally:
            torch.UntypedStorage.resize_ = plain  # type: ignore[method-assign]

    def _ended(self, key: int) -> None:
        number = self._alive.pop(key)[0]
        if number != EMPTY:
            self.trace.append((number, -1))


def _plain_two_hot(
    logits: Tensor, targets: Tensor, centres: Tensor, weights: Tensor | None, gradient: bool, mean: bool, kernel: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """The op's own steps where no kernel runs, on fake tensors."""
    loss = reference.two_hot_loss(logits, targets, centres, weights)
    slope = reference.two_hot_gradient(logits, targets, centres, weights) if gradient else logits.new_empty(0)
    return loss, slope, reference.two_hot_decode(logits, centres) if mean else loss.new_empty(0)


def _flash_backward_space(query: Tensor, key: Tensor) -> None:
    """The query gradient in fp32 over padded sequences, and a row sum; key and value gradients of all query heads.

    Source: flash_api.cpp (mha_bwd) of torch 2.13.
    """
    batch, heads, length, width = query.shape
    rows = -(-length // FLASH_ROWS) * FLASH_ROWS
    held = [query.new_empty(batch, heads, rows, width, dtype=torch.float32)]
    held.append(query.new_empty(batch, heads, rows, dtype=torch.float32))
    if key.shape[1] != heads:
        held += [key.new_empty(batch, heads, key.shape[2], width) for _ in range(2)]
