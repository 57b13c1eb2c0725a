"""Counting what can be counted exactly: launches (a Triton launch or an aten op that computes) and bytes moved.

An aten op moves its tensor inputs and outputs. What a Triton launch moves is counted by Triton's interpreter: the
distinct bytes that it loaded, and those that it stored. On a card launches alone are known.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from fastdreamer_kernels.launch import IS_INTERPRETED, record_launches
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

NAMESPACE = "fastdreamer"
FREE = ("empty", "detach", "alias", "expand", "view", "as_strided", "t.default", "unsqueeze", "squeeze", "permute")


@dataclass
class Counts:
    """Attributes: triton and aten launches by name, in order; bytes of each (triton_bytes only when interpreted)."""

    triton: list[str] = field(default_factory=list)
    triton_bytes: list[int] = field(default_factory=list)
    aten: list[str] = field(default_factory=list)
    aten_bytes: list[int] = field(default_factory=list)

    @property
    def launches(self) -> int:
        """All of them."""
        return len(self.triton) + len(self.aten)

    @property
    def bytes(self) -> int:
        """All of them."""
        return sum(self.triton_bytes) + sum(self.aten_bytes)


@contextmanager
def count() -> Iterator[Counts]:
    """Counts what runs inside the block; the counts are complete when it ends."""
    counts = Counts()
    touched: dict[tuple[int, str], list[np.ndarray]] = {}
    with record_launches() as launches, _addresses(launches, touched), _AtenMode(counts):
        yield counts
    counts.triton = [name for name, _ in launches]
    if IS_INTERPRETED:
        counts.triton_bytes = [
            sum(len(np.unique(np.concatenate(touched[key]))) for key in touched if key[0] == number)
            for number in range(len(launches))
        ]


class _AtenMode(TorchDispatchMode):
    def __init__(self, counts: Counts) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.counts = counts

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = str(func).removeprefix("aten.")
        is_free = func.is_view or any(word in name for word in FREE)
        if func.namespace != NAMESPACE and not is_free:
            tensors = [leaf for leaf in tree_leaves((args, kwargs, out)) if isinstance(leaf, Tensor)]
            self.counts.aten.append(name)
            self.counts.aten_bytes.append(
                sum(t.numel() * t.element_size() for t in {id(t): t for t in tensors}.values())
            )
        return out


@contextmanager
def _addresses(launches: list[Any], touched: dict[tuple[int, str], list[np.ndarray]]) -> Iterator[None]:
    """Notes the address of every byte that interpreted kernels load and store, by launch."""
    if not IS_INTERPRETED:
        yield
        return
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
