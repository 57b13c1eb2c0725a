"""Counting what can be counted exactly: launches (a Triton launch or an aten op that computes) and bytes moved.

An aten op moves its tensor inputs and outputs. What a Triton launch moves is counted by Triton's interpreter: the
distinct bytes that it loaded, and those that it stored. On a GPU launches alone are known.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from fastdreamer_kernels.launch import IS_INTERPRETED, record_launches
from torch import Tensor
from torch._library.custom_ops import OPDEFS
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

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
