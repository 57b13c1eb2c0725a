"""One specification a kernel: its inputs, awkward shapes, work, tolerance and compile variants.

Tests, benchmark rows, the ahead-of-time figures and the table of docs/kernels.md are made from these, and from nothing
else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fastdreamer_kernels import reference
from fastdreamer_kernels.decode import two_hot_decode, two_hot_decode_kernel
from fastdreamer_kernels.latent_pool import block_of, latent_pool, latent_pool_backward_kernel, latent_pool_kernel
from fastdreamer_kernels.reference import symexp_bins
from fastdreamer_kernels.rows import padded, tile_of
from fastdreamer_kernels.two_hot import two_hot_kernel, two_hot_loss, two_hot_scale_kernel

Shape = tuple[int, ...]
NAMES = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}


@dataclass(frozen=True)
class Variant:
    """One ahead-of-time compile: a kernel, the types of its arguments, what is constant and what is aligned."""

    name: str
    kernel: Any
    types: dict[str, str]  # "*bf16", "*fp32", "i32"
    constants: dict[str, Any]
    aligned: frozenset[str]  # arguments divisible by 16, as the launcher finds them on the benchmarked shapes
    warps: int = 4


@dataclass(frozen=True)
class KernelSpec:
    """What a kernel is given, what it costs at least, and how exact it must be.

    Attributes:
        make: (shape, dtype, device) -> the differentiated input and the other arguments of `call`.
        call: (input, *others, kernel=...) -> the output.
        plain: the same in differentiable PyTorch, in the input's type: truth in fp64, rival in benchmarks.
        shapes: shapes for correctness: small, odd, empty.
        sizes: sizes for benchmarks, by name.
        flops: FLOPs of the forward pass.
        floor: bytes that (shape, dtype) must move at least, by direction; both is forward and backward together.
        launches: number of launches, by direction.
        tiny: absolute error that is allowed beside twice plain PyTorch's.
    """

    name: str
    make: Callable[[Shape, torch.dtype, str], tuple[Tensor, tuple[Any, ...]]]
    call: Callable[..., Tensor]
    plain: Callable[..., Tensor]
    shapes: tuple[Shape, ...]
    sizes: dict[str, Shape]
    flops: Callable[[Shape], int]
    floor: Callable[[Shape, torch.dtype], dict[str, int]]
    launches: dict[str, int]
    tiny: float
    variants: tuple[Variant, ...]


def _make_pool(shape: Shape, dtype: torch.dtype, device: str) -> tuple[Tensor, tuple[Any, ...]]:
    batch, steps, height, width, pool = shape
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(batch, 16, steps, height, width, generator=generator).to(device, dtype), (pool,)


def _pool_floor(shape: Shape, dtype: torch.dtype) -> dict[str, int]:
    batch, steps, height, width, pool = shape
    latents = batch * 16 * steps * height * width * dtype.itemsize
    return {"forward": latents + latents // pool**2, "backward": latents + latents // pool**2}


def _make_two_hot(shape: Shape, dtype: torch.dtype, device: str) -> tuple[Tensor, tuple[Any, ...]]:
    rows, bins, cols = shape
    generator = torch.Generator().manual_seed(sum(shape))
    logits = 3 * torch.randn(rows, cols, generator=generator)
    targets = 8 * torch.randn(rows, generator=generator)
    weights = torch.rand(rows, generator=generator)
    centres = symexp_bins(bins, 3.0, device)
    return logits.to(device, dtype), (targets.to(device), centres, weights.to(device))


def _two_hot_floor(shape: Shape, dtype: torch.dtype) -> dict[str, int]:
    rows, bins, cols = shape
    logits, vector = rows * cols * dtype.itemsize, rows * 4
    # Targets, weights and loss, the centres, and the one incoming gradient of a summed loss.
    return {"forward": logits + 3 * vector + 4 * bins, "both": 2 * logits + 3 * vector + 4 * bins + 4}


def _make_decode(shape: Shape, dtype: torch.dtype, device: str) -> tuple[Tensor, tuple[Any, ...]]:
    logits, (_, centres, _) = _make_two_hot(shape, dtype, device)
    return logits, (centres,)


def _decode_floor(shape: Shape, dtype: torch.dtype) -> dict[str, int]:
    rows, bins, cols = shape
    return {"forward": rows * cols * dtype.itemsize + rows * 4 + 4 * bins}


def _pool_variants() -> tuple[Variant, ...]:
    variants = []
    for direction, kernel, pointers in (
        ("", latent_pool_kernel, ("p_in", "p_scale", "p_shift", "p_out")),
        ("_backward", latent_pool_backward_kernel, ("p_gradient", "p_scale", "p_out")),
    ):
        strides = ["s_b", "s_z", "s_l", "s_h", "s_w", *(["g_b", "g_l", "g_n", "g_z"] if direction else [])]
        for dtype, pool, is_last in (
            ("bf16", 8, False),
            ("bf16", 4, False),
            ("bf16", 2, False),
            ("bf16", 8, True),
            ("fp16", 8, False),
            ("fp32", 8, False),
            ("fp32", 2, False),
        ):
            one = "s_z" if is_last else "s_w"  # the launcher makes a stride of 1 a constant
            affine = {name: "*fp32" for name in ("p_scale", "p_shift") if name in pointers}
            types = {name: f"*{dtype}" for name in pointers} | affine
            ones = {one, "g_z"} if direction else {one}
            types |= {name: "i32" for name in ("steps", "rows", "cols", "width", *strides) if name not in ones}
            constants = {**dict.fromkeys(ones, 1), "P": pool, "BLOCK": block_of(32 // pool, pool), "HAS_AFFINE": True}
            aligned = frozenset({*pointers, *strides, "width"}) - ones
            name = f"latent_pool{direction}/{dtype}/p{pool}{'/channels_last' if is_last else ''}"
            variants.append(Variant(name, kernel, types, constants, aligned))
    return tuple(variants)


def _two_hot_variants() -> tuple[Variant, ...]:
    variants = []
    flags = {"HAS_WEIGHTS": True, "WANT_GRADIENT": True, "WANT_EXPECTATION": True}
    for dtype, bins, cols in (
        ("bf16", 255, 256),
        ("bf16", 255, 255),
        ("bf16", 41, 48),
        ("bf16", 511, 512),
        ("fp16", 255, 256),
        ("fp32", 255, 256),
    ):
        tile = tile_of(cols)
        warps = tile.pop("num_warps")
        logits = {"p_logits": f"*{dtype}", "p_gradient": "*fp32" if dtype == "fp16" else f"*{dtype}"}
        floats = dict.fromkeys(("p_targets", "p_weights", "p_centres", "p_loss", "p_expectation"), "*fp32")
        sizes = {"rows": "i32", "stride": "i32"}
        aligned = frozenset({*logits, *floats, "rows", *(["stride"] if cols % 16 == 0 else [])})
        name, constants = f"two_hot/{dtype}/{bins} of {cols}", {"BINS": bins, **tile, **flags}
        variants.append(Variant(name, two_hot_kernel, logits | floats | sizes, constants, aligned, warps))
        if bins == 255 and dtype != "fp16":
            name, types = f"two_hot_scale/{dtype}/{cols}", {"p_gradient": f"*{dtype}", "p_factor": "*fp32", **sizes}
            variants.append(Variant(name, two_hot_scale_kernel, types, tile, aligned - {"stride"}, warps))
    return tuple(variants)


def _decode_variants() -> tuple[Variant, ...]:
    variants = []
    for dtype in ("bf16", "fp32"):
        tile = tile_of(256)
        warps = tile.pop("num_warps")
        types = {"p_logits": f"*{dtype}", "p_centres": "*fp32", "p_out": "*fp32", "rows": "i32", "stride": "i32"}
        name, constants = f"two_hot_decode/{dtype}/255 of 256", {"BINS": 255, **tile}
        variants.append(Variant(name, two_hot_decode_kernel, types, constants, frozenset(types), warps))
    return tuple(variants)


TWO_HOT_SHAPES = tuple(
    (rows, bins, cols)
    for rows, bins in ((0, 41), (1, 255), (15, 41), (63, 101), (100, 255), (5, 511), (3, 3))
    for cols in sorted({bins, padded(bins)})
)

SPECS = (
    KernelSpec(
        name="latent_pool",
        make=_make_pool,
        call=latent_pool,
        plain=reference.latent_pool,
        shapes=(
            (1, 1, 8, 8, 8),
            (2, 5, 32, 32, 8),
            (15, 1, 4, 12, 4),
            (1, 3, 8, 4, 2),
            (1, 2, 6, 14, 2),
            (3, 1, 24, 40, 8),
            (0, 2, 8, 8, 4),
            (1, 63, 4, 4, 2),
        ),
        sizes={"batch 16": (16, 5, 32, 32, 8), "256 MB": (1600, 5, 32, 32, 8)},
        flops=lambda shape: 16 * shape[0] * shape[1] * shape[2] * shape[3],
        floor=_pool_floor,
        launches={"forward": 1, "backward": 1},
        tiny=1e-7,
        variants=_pool_variants(),
    ),
    KernelSpec(
        name="two_hot_loss",
        make=_make_two_hot,
        call=two_hot_loss,
        plain=reference.two_hot_loss,
        shapes=TWO_HOT_SHAPES,
        sizes={"24,576 x 255": (24576, 255, 256), "24,576 x 255, unpadded": (24576, 255, 255)},
        flops=lambda shape: 20 * shape[0] * shape[2],
        floor=_two_hot_floor,
        launches={"forward": 1, "both": 2},
        tiny=1e-6,
        variants=_two_hot_variants(),
    ),
    KernelSpec(
        name="two_hot_decode",
        make=_make_decode,
        call=two_hot_decode,
        plain=reference.two_hot_decode,
        shapes=TWO_HOT_SHAPES,
        sizes={"24,576 x 255": (24576, 255, 256)},
        flops=lambda shape: 8 * shape[0] * shape[2],
        floor=_decode_floor,
        launches={"forward": 1},
        tiny=2e-6,
        variants=_decode_variants(),
    ),
)
