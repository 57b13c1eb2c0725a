"""The kernels against plain PyTorch and torch.compile, forward, backward and both.

    PYTHONPATH=.:kernels:engines python -m bench.suites kernels [--device cuda|cpu] [--arms eager,kernel] [--out FILE]

On a GPU: CUDA events, cold and warm level-2 cache, benchmarked sizes, results to bench/results/<GPU>.json. On a CPU
the op is plain PyTorch, so only eager and torch.compile are there, small; nothing is written unless asked for.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from fastdreamer_kernels.launch import IS_INTERPRETED
from fastdreamer_kernels.specs import NAMES, SPECS, KernelSpec
from torch import Tensor

from bench.count import count
from bench.suites.command import Report, known, options, out_file, words
from bench.suites.results import Measured, at_least, table
from bench.timing import Arm, copy_bandwidth, cuda_seconds, machine, matrix_rate, paired
from fastdreamer.errors import UserError


@dataclass(frozen=True)
class Row:
    """Attributes: name; arms by name (the first is the reference); flops and floor_bytes of one run."""

    name: str
    arms: dict[str, Arm]
    flops: int
    floor_bytes: int


def kernel_rows(device: str, dtypes: tuple[torch.dtype, ...], arms: tuple[str, ...], small: bool) -> Iterator[Row]:
    """A row for every kernel, benchmarked (or small) size, type of the differentiated input, and direction.

    Arms are among "eager" (plain PyTorch), "compile" (torch.compile of it) and "kernel" (the op).
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


COPY_BYTES = {"cuda": 1 << 28, "cpu": 1 << 26}
PAIRS = 20
COLUMNS: dict[str, Callable[[Measured], str]] = {
    "cache": lambda r: r.cache, "us": lambda r: f"{r.median_us:.1f}", "GB/s": lambda r: f"{r.gb_per_s:.1f}",
    "% copy": lambda r: f"{100 * r.copy_share:.0f}", "x ref": lambda r: f"{r.speedup:.2f}",
    "launches": lambda r: f"{r.launches or ''}",
}  # fmt: skip


def measure(row: Row, device: str, bandwidth: float, pairs: int = PAIRS) -> Iterator[Measured]:
    """Every arm of a row; `bandwidth` is the copy's, in bytes a second; `pairs` of timings on a CPU."""
    print(f"measuring {row.name}", flush=True)
    reference = next(iter(row.arms))
    launches: dict[str, int | None] = dict.fromkeys(row.arms)
    for name, arm in row.arms.items():
        prepared = arm.prepare()
        if name == "compile":  # a compiled graph cannot be counted from outside
            arm.run(prepared)
            continue
        with count() as counts:
            arm.run(prepared)
        launches[name] = counts.launches

    def measured(name: str, cache: str, seconds: float, base: float) -> Measured:
        share = row.floor_bytes / seconds / bandwidth
        return Measured(
            row.name, name, cache, 1e6 * seconds, row.floor_bytes, row.flops, launches[name], share, base / seconds
        )

    if device == "cpu":
        for name, arm in row.arms.items():
            pair = paired(row.arms[reference], arm, pairs)
            yield measured(name, "host", pair.seconds_b, pair.seconds_b / pair.ratio)
        return
    for cache in ("cold", "warm"):
        times = {name: statistics.median(cuda_seconds(arm, cache == "cold")) for name, arm in row.arms.items()}
        for name, seconds in times.items():
            yield measured(name, cache, seconds, times[reference])


def verdicts(rows: Sequence[Measured]) -> list[str]:
    """What the kernels promise on a GPU, each with what was measured and whether it holds (cold level-2 cache)."""
    found = {(r.row, r.arm): r for r in rows if r.cache == "cold"}
    loss, pool = "two_hot_loss 24,576 x 255 bf16 both", "latent_pool 256 MB bf16 forward"
    if not {(loss, "kernel"), (loss, "compile"), (pool, "kernel")} <= found.keys():
        return []
    kernel, compiled = found[loss, "kernel"], found[loss, "compile"]
    figures = (
        ("two-hot over eager", kernel.speedup, 5.0),
        ("two-hot over torch.compile", compiled.median_us / kernel.median_us, 1.2),
        ("two-hot, share of copy bandwidth", kernel.copy_share, 0.6),
        ("pool, share of copy bandwidth", found[pool, "kernel"].copy_share, 0.8),
    )
    return [at_least(name, value, least) for name, value, least in figures]


ARMS = ("eager", "compile", "kernel")
OPTIONS = options(
    "device", "out",
    pairs={"type": int, "default": PAIRS, "help": "timings of each arm on a CPU"},
    arms={"type": words, "help": f"{','.join(ARMS)}; the first is 1"},
)  # fmt: skip


def run(chosen: argparse.Namespace) -> None:
    """Measure and print."""
    if IS_INTERPRETED:
        raise UserError("TRITON_INTERPRET is set: the interpreter's times mean nothing; unset it")
    known("arms", chosen.arms, ARMS)
    is_gpu = chosen.device == "cuda"
    about = machine()
    probes = {
        "copy_bytes_per_s": copy_bandwidth(COPY_BYTES[chosen.device], chosen.device),
        "matmul_flop_per_s": matrix_rate(4096 if is_gpu else 512, torch.bfloat16, chosen.device),
    }
    print(about.get("card", about["processor"]), about["versions"], about["commit"])
    print(f"copy {probes['copy_bytes_per_s'] / 1e9:.0f} GB/s, matmul {probes['matmul_flop_per_s'] / 1e12:.2f} TFLOP/s")
    dtypes = (torch.bfloat16, torch.float32) if is_gpu else (torch.float32,)
    arms = chosen.arms or (ARMS if is_gpu else ARMS[:2])
    chosen.result = ""
    report = Report(about, probes, out_file(chosen, about))
    found = kernel_rows(chosen.device, dtypes, tuple(arms), small=not is_gpu)
    rows = report.saved(
        m for row in found for m in measure(row, chosen.device, probes["copy_bytes_per_s"], chosen.pairs)
    )
    print(table(rows, COLUMNS), *verdicts(rows), sep="\n")
    if report.out is not None:
        print(f"wrote {len(rows)} rows to {report.out}")
