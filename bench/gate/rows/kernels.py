"""The kernels: times of the operations on this device, work of their interpreted launches, and their machine code.

On a CPU the operations are plain PyTorch, so launches and bytes of the kernels themselves come from Triton's
interpreter, and registers, spills and widths from compiling them ahead of time; both in processes of their own.
"""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Callable
from functools import cache, partial

import torch
from fastdreamer_kernels import aot
from fastdreamer_kernels.specs import SPECS, KernelSpec
from torch import Tensor
from torch.nn import functional as F

from bench.gate.rows.base import GateRow, Place, RowWork, Wrong, close, nothing
from bench.naive import objectives
from bench.timing import run_python

SHAPES = {"latent_pool": (4, 5, 32, 32, 8), "two_hot_loss": (512, 255, 256), "two_hot_decode": (512, 255, 256)}
"""Timed; the interpreter counts each kernel's largest correctness shape."""
ARCHITECTURE = 86
"""A consumer GPU's; `python -m fastdreamer_kernels.aot` compiles for all of them."""


def plain_pool(x: Tensor, pool: int) -> Tensor:
    """Means of blocks, then tokens last but one."""
    pooled = F.avg_pool2d(x.transpose(1, 2).flatten(0, 1), pool).unflatten(0, (len(x), -1))
    return pooled.flatten(3).transpose(2, 3)


def plain_loss(logits: Tensor, targets: Tensor, centres: Tensor, weights: Tensor) -> Tensor:
    """Weighted cross-entropy in plain PyTorch."""
    return objectives.two_hot_loss(logits, targets, centres) * weights


PLAIN: dict[str, Callable[..., Tensor]] = {
    "latent_pool": plain_pool,
    "two_hot_loss": plain_loss,
    "two_hot_decode": objectives.two_hot_decode,
}


def operation(spec: KernelSpec, place: Place) -> RowWork:
    """Forward and, where there is one, backward, as training calls it."""
    x, others = spec.make(SHAPES[spec.name], torch.float32, place.device.type)
    is_decoding = spec.name == "two_hot_decode"
    leaf = x.clone().requires_grad_(not is_decoding)

    def run(call: Callable[..., Tensor]) -> tuple[Tensor, Tensor]:
        out = call(leaf, *others)
        if is_decoding:
            return out, out
        return out.detach(), torch.autograd.grad(out.sum(), leaf)[0]

    def check() -> None:
        for name, ours, plain in zip(("result", "gradient"), run(spec.call), run(PLAIN[spec.name]), strict=True):
            close(f"the {name}", ours, plain, 1e-4)

    return RowWork.of_calls(place, check, partial(run, spec.call), partial(run, PLAIN[spec.name]))


def interpreted(spec: KernelSpec, _: Place) -> RowWork:
    """Launches and distinct bytes of the kernel."""
    return RowWork(check=nothing, counts=lambda: _interpreter()[spec.name])


@cache
def _interpreter() -> dict[str, dict[str, int]]:
    done = run_python("-m", "bench.gate.rows.kernels", TRITON_INTERPRET="1")
    if done.returncode:
        raise Wrong(f"Triton's interpreter failed: {done.stderr.strip().splitlines()[-1:]}")
    found: dict[str, dict[str, int]] = json.loads(done.stdout.splitlines()[-1])
    return found


def count_interpreted() -> dict[str, dict[str, int]]:
    """Count what each kernel launches and moves, forward and backward; to be run with TRITON_INTERPRET=1."""
    from bench.count import count

    found = {}
    for spec in SPECS:
        x, others = spec.make(max(spec.shapes, key=spec.flops), torch.float32, "cpu")
        leaf = x.requires_grad_(spec.name != "two_hot_decode")
        with count() as forward:
            out = spec.call(leaf, *others)
        one = {"forward_launches": forward.launches, "forward_bytes": forward.bytes}
        one["forward_loaded"] = sum(forward.triton_loaded)
        if leaf.requires_grad:
            incoming = torch.full_like(out, 2.0)
            with count() as backward:
                torch.autograd.grad(out, leaf, incoming)
            one |= {"backward_launches": backward.launches, "backward_bytes": backward.bytes}
        found[spec.name] = one
    return found


def machine_code(spec: KernelSpec, _: Place) -> RowWork:
    """Registers, spills, loads and stores of every variant."""

    def counts() -> dict[str, int]:
        return _figures({f"{v.name} sm_{ARCHITECTURE}": aot.compile_variant(v, ARCHITECTURE) for v in spec.variants})

    return RowWork(check=nothing, counts=counts)


def expected_code(spec: KernelSpec) -> dict[str, int] | None:
    """What kernels/aot_expected.json says of this Triton's machine code."""
    rows = json.loads(aot.EXPECTED.read_text()).get(importlib.metadata.version("triton"))
    names = [f"{variant.name} sm_{ARCHITECTURE}" for variant in spec.variants]
    return _figures({name: rows[name] for name in names if name in rows}) if rows else None


def _figures(rows: dict[str, aot.Row]) -> dict[str, int]:
    return {f"{name} {field}": row[field] for name, row in rows.items() for field in aot.GATED}


ROWS = (
    *(
        GateRow(spec.name.replace("_", " "), partial(operation, spec), is_steady=spec.name != "latent_pool")
        for spec in SPECS
    ),
    *(GateRow(f"{s.name.replace('_', ' ')}, kernel", partial(interpreted, s), ("triton",), ("cpu",)) for s in SPECS),
    *(
        GateRow(
            f"{spec.name.replace('_', ' ')}, machine code",
            partial(machine_code, spec),
            ("triton",),
            ("cpu",),
            is_short=False,
            expected=partial(expected_code, spec),
        )
        for spec in SPECS
    ),
)

if __name__ == "__main__":
    print(json.dumps(count_interpreted()))
