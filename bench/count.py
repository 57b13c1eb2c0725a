"""Counting what can be counted exactly: launches (a Triton launch or an aten op that computes) and bytes moved.

An aten op moves its tensor inputs and outputs. What a Triton launch moves is counted by Triton's interpreter: the
distinct bytes that it loaded, and those that it stored. On a GPU launches alone are known.
`Watch` counts FLOPs, waits for the device and memory as well, which is followed on tensors: every storage that
operations make, from its first tensor to its last. So a peak and a leak are whole numbers on any machine, and the state
that was there before is not in them.
"""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from fastdreamer_kernels.launch import IS_INTERPRETED, record_launches
from torch import Tensor
from torch._library.custom_ops import OPDEFS
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

NAMESPACE = "fastdreamer"
FREE = {
    f"aten::{name}"
    for name in ("empty", "new_empty", "empty_like", "empty_strided", "new_empty_strided", "detach", "alias")
}


@dataclass
class Counts:
    """Attributes: triton and aten launches by name, in order, and bytes of each.

    Only when interpreted: triton_bytes, distinct; triton_loaded, every load counted, repeated or not.
    """

    triton: list[str] = field(default_factory=list)
    triton_bytes: list[int] = field(default_factory=list)
    triton_loaded: list[int] = field(default_factory=list)
    aten: list[str] = field(default_factory=list)
    aten_bytes: list[int] = field(default_factory=list)

    @property
    def launches(self) -> int:
        """Number of all launches."""
        return len(self.triton) + len(self.aten)

    @property
    def bytes(self) -> int:
        """Bytes of all launches."""
        return sum(self.triton_bytes) + sum(self.aten_bytes)


@contextmanager
def count() -> Iterator[Counts]:
    """Counts what runs inside the block; the counts are complete when it ends."""
    counts = Counts()
    touched: dict[tuple[int, str], list[Any]] = {}
    with record_launches() as launches, _addresses(launches, touched), _AtenMode(counts):
        yield counts
    counts.triton = [name for name, _ in launches]
    if IS_INTERPRETED:
        import numpy as np

        for number in range(len(launches)):
            lists = [np.concatenate(touched[number, kind]) for kind in ("load", "store") if (number, kind) in touched]
            counts.triton_bytes.append(sum(len(np.unique(one)) for one in lists))
            counts.triton_loaded.append(sum(len(one) for one in touched.get((number, "load"), [])))


class _AtenMode(TorchDispatchMode):
    def __init__(self, counts: Counts) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.counts = counts

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == NAMESPACE:  # what our ops do inside is counted, not they
            with self:
                return OPDEFS[func._schema.name]._init_fn(*args, **(kwargs or {}))
        out = func(*args, **(kwargs or {}))
        if not func.is_view and func._schema.name not in FREE and func._schema.name != "aten::_reshape_alias":
            name = str(func).removeprefix("aten.")
            tensors = [leaf for leaf in tree_leaves((args, kwargs, out)) if isinstance(leaf, Tensor)]
            self.counts.aten.append(name)
            self.counts.aten_bytes.append(
                sum(t.numel() * t.element_size() for t in {id(t): t for t in tensors}.values())
            )
        return out


@contextmanager
def _addresses(launches: list[Any], touched: dict[tuple[int, str], list[Any]]) -> Iterator[None]:
    """Notes the address of every byte that interpreted kernels load and store, by launch."""
    if not IS_INTERPRETED:
        yield
        return
    import numpy as np
    from triton.runtime.interpreter import InterpreterBuilder

    load, store = InterpreterBuilder.create_masked_load, InterpreterBuilder.create_masked_store

    def note(kind: str, pointers: Any, mask: Any) -> None:
        size = pointers.get_element_ty().primitive_bitwidth // 8
        hit = np.broadcast_to(pointers.data, np.broadcast_shapes(pointers.data.shape, mask.data.shape))[mask.data]
        hit = hit.reshape(-1, 1).astype(np.int64) + np.arange(size)
        touched.setdefault((len(launches) - 1, kind), []).append(hit.ravel())

    def noted_load(self: Any, pointers: Any, mask: Any, *rest: Any) -> Any:
        note("load", pointers, mask)
        return load(self, pointers, mask, *rest)

    def noted_store(self: Any, pointers: Any, value: Any, mask: Any, *rest: Any) -> Any:
        note("store", pointers, mask)
        return store(self, pointers, value, mask, *rest)

    InterpreterBuilder.create_masked_load, InterpreterBuilder.create_masked_store = noted_load, noted_store
    try:
        yield
    finally:
        InterpreterBuilder.create_masked_load, InterpreterBuilder.create_masked_store = load, store


WAITING = (
    "_local_scalar_dense", "item", "nonzero", "is_nonzero", "masked_select", "equal", "lift_fresh", "_unique2",
    "unique", "bincount", "repeat_interleave.Tensor",
)  # fmt: skip
"""Operations whose result the host must know, or that bring host memory to the device in the middle of a step."""
ATTENTION = "aten::_scaled_dot_product_flash_attention_for_cpu"


class Watch(TorchDispatchMode):
    """Counts launches, bytes, FLOPs and waits while it is active.

    Attributes:
        flops: FLOPs of products, convolutions and attention; `syncs`: see WAITING, and indexing by a mask.
        live: bytes of the storages made since it began that are still there; `peak`: their most.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops = self.syncs = self.live = self.peak = 0
        self._seen: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs the operation; one of ours is looked into."""
        if func.namespace == NAMESPACE:
            with self:
                return OPDEFS[func._schema.name]._init_fn(*args, **(kwargs or {}))
        if func._can_decompose() and not func.is_view:  # in inference mode convolutions and products come whole
            with self:
                out = func.decompose(*args, **(kwargs or {}))
            if out is not NotImplemented:
                return out
        out = func(*args, **(kwargs or {}))
        self.flops += _flops(func, args, kwargs or {}, out)
        self.syncs += _waits(func, args)
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                self._follow(tensor, args, kwargs)
        return out

    def _follow(self, tensor: Tensor, args: Any, kwargs: Any) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._seen or any(
            isinstance(given, Tensor) and given.untyped_storage()._cdata == key for given in tree_leaves((args, kwargs))
        ):
            return
        size = storage.nbytes()
        self._seen.add(key)
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._end, key, size)

    def _end(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self.live -= size


def counts_of(step: Callable[[], object], device: torch.device) -> dict[str, int]:
    """Counts of one call; two come before it, since a first call makes what later ones keep.

    Returns:
        launches, bytes, flops, syncs, peak_bytes (of what the call made) and left_bytes (what it made and kept).
    """
    step()
    with no_collection(), Watch() as watch:
        step()
        before, watch.flops, watch.syncs, watch.peak = watch.live, 0, 0, watch.live
        with count() as counts:
            step()
        after, peak = watch.live, watch.peak
    found = {"launches": counts.launches, "flops": watch.flops, "syncs": watch.syncs}
    found |= {"peak_bytes": peak, "left_bytes": after - before}
    return found if counts.triton and device.type == "cuda" else found | {"bytes": counts.bytes}


@contextmanager
def no_collection() -> Iterator[None]:
    """Garbage that waits for its collector would end at any time."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _flops(func: Any, args: Any, kwargs: Any, out: Any) -> int:
    if func._schema.name == ATTENTION:
        return int(sdpa_flop_count(args[0].shape, args[1].shape, args[2].shape))
    if func._schema.name == ATTENTION + "_backward":
        return int(sdpa_backward_flop_count(*(x.shape for x in args[:4])))
    formula = flop_registry.get(func._overloadpacket)
    return int(formula(*args, **kwargs, out_val=out)) if formula else 0


def _waits(func: Any, args: Any) -> bool:
    name = func._schema.name.removeprefix("aten::")
    if f"{name}.{func._overloadname}".startswith(WAITING):
        return True
    if not name.startswith("index") or len(args) < 2 or not isinstance(args[1], list | tuple):
        return False
    return any(isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8) for index in args[1])
