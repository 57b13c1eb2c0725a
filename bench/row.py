"""A benchmark row: the same work done by several arms, the first of which is the reference."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from fastdreamer_kernels.specs import NAMES, SPECS, KernelSpec
from torch import Tensor

from bench.arm import Arm


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
        device: the device of the tensors.
        dtypes: types of the differentiated input.
        arms: names among "eager" (plain PyTorch), "compile" (torch.compile of it) and "kernel" (the op).
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
    floor = spec.floor(shape, dtype)
    if "backward" in floor:
        floor = floor | {"both": floor["forward"] + floor["backward"]}
    if direction not in floor:  # decoding has no backward pass of its own, the two-hot loss does it in the forward
        return None
    torch._dynamo.reset()  # or many rows of one function reach its limit of compiles
    calls = {
        "eager": spec.plain,
        "compile": torch.compile(spec.plain, fullgraph=True, dynamic=False),
        "kernel": spec.call,
    }
    made = {arm: _arm(calls[arm], x.detach(), others, direction) for arm in arms}
    flops = spec.flops(shape) * {"forward": 1, "backward": 1, "both": 2}[direction]
    return Row(f"{spec.name} {size} {NAMES[dtype]} {direction}", made, flops, floor[direction])


def _arm(call: Callable[..., Tensor], x: Tensor, others: tuple[Any, ...], direction: str) -> Arm:
    leaf = x.clone().requires_grad_()

    def forward(_: None) -> Tensor:
        with torch.no_grad():
            return call(x, *others)

    def out() -> Tensor:
        return call(leaf, *others)

    sample = forward(None)
    incoming = torch.ones((), device=x.device, dtype=sample.dtype).expand(sample.shape)  # that of a sum

    def backward(out: Tensor) -> Tensor:
        return torch.autograd.grad(out, leaf, incoming)[0]

    def both(_: None) -> Tensor:
        return backward(out())

    return {"forward": Arm(forward), "backward": Arm(backward, out), "both": Arm(both)}[direction]
