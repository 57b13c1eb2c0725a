"""The transformer's operations in few passes over memory, forward and backward, where torch runs eagerly on a CPU.

Autograd takes an operation at a time: a norm costs it eight passes, a rotation sixteen, and a product goes to whatever
library torch was built on. Here each is one function with its own backward pass, and products in fp32 go to oneDNN
(NOTES.md). Every function has its plain form beside it, which runs on a GPU and under torch.compile, which fuses it
itself.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn import functional as F
from torch.utils.flop_counter import mm_flop, register_flop_formula

EPS = 1e-6
HAS_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


_is_plain = ContextVar("is_plain", default=False)


@contextmanager
def plain() -> Iterator[None]:
    """Inside, the plain forms run everywhere: for a GPU's memory that is planned on a CPU, and to compare."""
    token = _is_plain.set(True)
    try:
        yield
    finally:
        _is_plain.reset(token)


def is_eager_cpu(x: Tensor) -> bool:
    """Whether an operation on `x` is run as it is written, on a CPU."""
    return not torch.compiler.is_compiling() and x.device.type == "cpu" and not _is_plain.get()


def linear(
    x: Float[Tensor, "*b i"], weight: Float[Tensor, "o i"], residual: Float[Tensor, "*b o"] | None = None
) -> Float[Tensor, "*b o"]:
    """x W^T, and the residual added to it."""
    if _is_onednns(x, weight) and (residual is None or residual.dtype == x.dtype):
        out: Tensor = _Linear.apply(x, weight, residual)  # type: ignore[no-untyped-call]
        return out
    out = F.linear(x, weight)
    return out if residual is None else residual + out


def _is_onednns(x: Tensor, weight: Tensor) -> bool:
    is_single = x.dtype == weight.dtype == torch.float32
    return HAS_ONEDNN and is_single and is_eager_cpu(x) and not torch.is_autocast_enabled("cpu") and x.numel() > 0


class _Linear(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, residual: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        out = _product(x, weight)
        return out if residual is None else out.add_(residual)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        x, weight = ctx.saved_tensors
        needs = ctx.needs_input_grad
        to_x = _product(gradient, weight.t()) if needs[0] else None
        to_weight = gradient.flatten(0, -2).t() @ x.flatten(0, -2) if needs[1] else None
        return to_x, to_weight, gradient if needs[2] else None


def _product(x: Tensor, weight: Tensor) -> Tensor:
    out: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")
    return out


if HAS_ONEDNN:  # so that counted FLOPs stay the products', whoever computes them

    @register_flop_formula([torch.ops.mkldnn._linear_pointwise])
    def _linear_flops(x: Any, weight: Any, *rest: Any, out_shape: Any = None, **named: Any) -> int:
        return mm_flop((math.prod(x[:-1]), x[-1]), (x[-1], weight[0]))


def swiglu(both: Float[Tensor, "*b h2"]) -> Float[Tensor, "*b h"]:
    """silu(gate) * up of the two halves. Source: Shazeer 2020, arXiv:2002.05202."""
    if is_eager_cpu(both):
        out: Tensor = _SwiGLU.apply(both)  # type: ignore[no-untyped-call]
        return out
    gate, up = both.chunk(2, dim=-1)
    return F.silu(gate) * up


class _SwiGLU(Function):
    @staticmethod
    def forward(ctx: Any, both: Tensor) -> Tensor:
        gate, up = both.chunk(2, dim=-1)
        active = F.silu(gate)
        ctx.save_for_backward(both, active)
        return active * up

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        both, active = ctx.saved_tensors
        gate, up = both.chunk(2, dim=-1)
        out = torch.empty_like(both)
        to_gate, to_up = out.chunk(2, dim=-1)
        torch.mul(active, gradient, out=to_up)
        torch.ops.aten.silu_backward.grad_input(gradient * up, gate, grad_input=to_gate)
        return out


def rms_norm(x: Float[Tensor, "*b d"], gain: Float[Tensor, " d"]) -> Float[Tensor, "*b d"]:
    """x / sqrt(mean x^2 + eps) times the gain, in the type of `x`; sums in fp32. Source: arXiv:1910.07467."""
    if is_eager_cpu(x):
        out: Tensor = _RMSNorm.apply(x, gain)  # type: ignore[no-untyped-call]
        return out
    with torch.autocast(x.device.type, enabled=False):
        return F.rms_norm(x, gain.shape, gain.to(x.dtype), EPS)


def _inverse(x: Tensor) -> Tensor:
    """1 / root mean square of the last axis, kept, in fp32."""
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
    return norm.square_().div_(x.shape[-1]).add_(EPS).rsqrt_()


def _norm_backward(gradient: Tensor, x: Tensor, inverse: Tensor, gain: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of x and of the gain, from that of gain * x * inverse."""
    inverse = inverse.to(x.dtype)
    product = (gradient * x).mul_(inverse)
    to_gain = product.flatten(0, -2).sum(0)  # in pairs: a product with a vector would add row after row
    share = (product @ gain.unsqueeze(-1)).mul_(inverse / -x.shape[-1])
    return torch.mul(gradient, gain, out=product).addcmul_(x, share).mul_(inverse), to_gain


class _RMSNorm(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, gain: Tensor) -> Tensor:
        inverse = _inverse(x)
        ctx.save_for_backward(x, gain, inverse)
        return (x * inverse.to(x.dtype)).mul_(gain.to(x.dtype))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        x, gain, inverse = ctx.saved_tensors
        to_x, to_gain = _norm_backward(gradient, x, inverse, gain.to(x.dtype))
        return to_x, to_gain.to(gain.dtype)


def rotate(x: Float[Tensor, "*b e"], cos: Float[Tensor, "*at half"], sin: Float[Tensor, "*at half"]) -> Tensor:
    """Rotary position embedding of the last axis, its halves being a pair's parts; the tables broadcast."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


def rotated_norm(
    x: Float[Tensor, "*b e"], norm: nn.RMSNorm, cos: Float[Tensor, "*at half"], sin: Float[Tensor, "*at half"]
) -> Float[Tensor, "*b e"]:
    """RMSNorm, then the rotation to a position: queries and keys."""
    cos, sin = cos.to(x.dtype), sin.to(x.dtype)
    if is_eager_cpu(x):
        out: Tensor = _RotatedNorm.apply(x, norm.weight, cos, sin)  # type: ignore[no-untyped-call]
        return out
    return rotate(norm(x), cos, sin)


class _RotatedNorm(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, gain: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        inverse = _inverse(x)
        ctx.save_for_backward(x, gain, cos, sin, inverse)
        first, second = gain.to(x.dtype).chunk(2)
        # The gain goes into the tables, and the inverse, one number a head, comes last.
        out = _turned(x, torch.cat([cos * first, cos * second], -1), -sin * second, sin * first)
        return out.mul_(inverse.to(x.dtype))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        x, gain, cos, sin, inverse = ctx.saved_tensors
        back = _turned(gradient, torch.cat([cos, cos], -1), sin, -sin)
        to_x, to_gain = _norm_backward(back, x, inverse, gain.to(x.dtype))
        return to_x, to_gain.to(gain.dtype), None, None


def _turned(x: Tensor, same: Tensor, to_first: Tensor, to_second: Tensor) -> Tensor:
    """Each half times its part of `same`, and the other half times what goes from there to here."""
    out, half = x * same, x.shape[-1] // 2
    out[..., :half].addcmul_(x[..., half:], to_first)
    out[..., half:].addcmul_(x[..., :half], to_second)
    return out
