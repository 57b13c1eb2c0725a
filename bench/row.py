"""A benchmark row: the same work done by several arms, the first of which is the reference."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from fastdreamer_kernels.specs import NAMES, SPECS, KernelSpec
from torch import Tensor


def _nothing() -> None:
    return None


@dataclass(frozen=True)
class Arm:
    """`run` is timed, on what `prepare` gave it, which is not."""

    run: Callable[[Any], Any]
    prepare: Callable[[], Any] = field(default=_nothing)


@dataclass(frozen=True)
class Row:
    """Attributes: name; arms by name (the first is the reference); flops and floor_bytes of one run."""

    name: str
    arms: dict[str, Arm]
    flops: int
    floor_bytes: int


def kernel_rows(device: str, dtypes: tuple[torch.dtype, ...], arms: tuple[str, ...], small: bool) -> Iterator[Row]:
    """A row for every kernel, benchmarked size, type and direction.

    Args:
        device: where the tensors lie.
        dtypes: types of the differentiated input.
        arms: of "eager" (plain PyTorch), "compile" (torch.compile of it) and "kernel" (the op).
        small: use the largest correctness shape in place of the benchmarked sizes.
    """
    for spec in SPECS:
        sizes = {"small": max(spec.shapes, key=lambda shape: spec.flops(shape))} if small else spec.sizes
        for size, shape in sizes.items():
            for dtype in dtypes:
                for direction in ("forward", "backward", "both"):
                    if row := _row(spec, size, shape, dtype, direction, device, arms):
                        yield row


def _row(
    spec: KernelSpec, size: str, shape: tuple[int, ...], dtype: torch.dtype, direction: str, device: str,
    arms: tuple[str, ...],
) -> Row | None:  # fmt: skip
    x, others = spec.make(shape, dtype, device)
    if spec.name == "two_hot_decode" and direction != "forward":
        return None  # decoding is for acting: its backward pass is plain PyTorch
    floor = spec.floor(shape, dtype)
    both = floor.get("both", floor["forward"] + floor.get("backward", 0))
    bytes_at_least = {"forward": floor["forward"], "backward": both - floor["forward"], "both": both}[direction]
    calls = {
        "eager": spec.plain,
        "compile": torch.compile(spec.plain, fullgraph=True, dynamic=False),
        "kernel": spec.call,
    }
    made = {arm: _arm(calls[arm], x.detach(), others, direction) for arm in arms}
    flops = spec.flops(shape) * {"forward": 1, "backward": 1, "both": 2}[direction]
    return Row(f"{spec.name} {size} {NAMES[dtype]} {direction}", made, flops, max(bytes_at_least, 1))


def _arm(call: Callable[..., Tensor], x: Tensor, others: tuple[Any, ...], direction: str) -> Arm:
    leaf = x.clone().requires_grad_()

    def forward(_: None) -> Tensor:
        with torch.no_grad():
            return call(x, *others)

    def loss() -> Tensor:
        return call(leaf, *others).sum()

    def backward(loss: Tensor) -> Tensor:
        return torch.autograd.grad(loss, leaf)[0]

    def both(_: None) -> Tensor:
        return backward(loss())

    return {"forward": Arm(forward), "backward": Arm(backward, loss), "both": Arm(both)}[direction]
