"""The CPU's own forward and backward passes equal the plain operations, on awkward shapes and in both precisions."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.testing import assert_close
from torch.utils.flop_counter import FlopCounterMode

from fastdreamer.dynamics import fused
from fastdreamer.dynamics.norm import RMSNorm

ROWS = [(1,), (3, 5), (2, 3, 1, 7)]


def compare(function: Callable[..., Tensor], *given: Tensor, half: bool = False) -> Tensor:
    """Results and gradients of `function` in both forms, the gradient coming from a tensor in another order."""
    given = tuple(x.detach().clone().requires_grad_() for x in given)
    fast = function(*given)
    with fused.plain():
        slow = function(*given)
    assert fast.dtype == slow.dtype and fast.shape == slow.shape
    limits = {"rtol": 2e-2, "atol": 2e-2} if half else {"rtol": 1e-4, "atol": 1e-5}
    assert_close(fast, slow, **limits)
    gradient = torch.randn(fast.shape[::-1]).to(fast.dtype).permute(*range(fast.ndim)[::-1])
    wanted = torch.autograd.grad(slow, given, gradient)
    for got, want, x in zip(torch.autograd.grad(fast, given, gradient), wanted, given, strict=True):
        assert got.dtype == x.dtype and want.abs().max() > 0
        assert_close(got, want, rtol=limits["rtol"], atol=limits["atol"] * float(want.abs().max().clamp(min=1)))
    return fast


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize(("width", "outputs"), [(1, 1), (7, 3), (32, 33)])
def test_products_with_and_without_a_residual(rows: tuple[int, ...], width: int, outputs: int) -> None:
    x, weight, residual = torch.randn(*rows, width), torch.randn(outputs, width), torch.randn(*rows, outputs)
    found = compare(fused.linear, x, weight)
    assert not fused.HAS_ONEDNN or type(found.grad_fn).__name__ == "_LinearBackward"
    compare(fused.linear, x, weight, residual)
    strided = torch.randn(2, 5, 2 * width)[:, ::2, :width]
    compare(lambda a, w, r: fused.linear(a, w, r[..., ::2]), strided, weight, torch.randn(2, 3, 2 * outputs))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", ROWS)
def test_swiglu_and_norms(rows: tuple[int, ...], dtype: torch.dtype) -> None:
    half, width = dtype == torch.bfloat16, 10
    compare(fused.swiglu, torch.randn(*rows, 2 * width).to(dtype), half=half)
    compare(fused.rms_norm, 3 * torch.randn(*rows, width).to(dtype), torch.randn(width), half=half)
    compare(lambda x, gain: fused.rms_norm(x[..., ::2], gain), torch.randn(*rows, width), torch.randn(width // 2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("shape", "axes"), [((2, 5, 3, 6), 1), ((2, 4, 5, 3, 8), 1), ((2, 4, 5, 1, 2), 2)])
def test_rotated_norms_along_space_and_time(shape: tuple[int, ...], axes: int, dtype: torch.dtype) -> None:
    width = shape[-1]
    angle = torch.randn(shape[-2 - axes], *[1] * axes, width // 2)

    def turned(x: Tensor, gain: Tensor) -> Tensor:
        norm = RMSNorm(width)
        del norm.weight
        norm.weight = gain  # type: ignore[assignment]  # a tensor of the graph in the parameter's place
        return fused.rotated_norm(x, norm, angle.cos(), angle.sin())

    x, gain = torch.randn(shape), torch.randn(width)
    compare(turned, x.to(dtype), gain, half=dtype == torch.bfloat16)
    # Against the complex form of the same rotation, written out.
    normed = F.rms_norm(x, (width,), gain, fused.EPS)
    pairs = torch.complex(*normed.chunk(2, -1)) * torch.polar(torch.ones_like(angle), angle)
    assert_close(turned(x, gain), torch.cat([pairs.real, pairs.imag], -1), rtol=1e-4, atol=1e-5)


def test_a_row_of_zeros_has_a_finite_gradient() -> None:
    x, gain = torch.zeros(2, 4, requires_grad=True), torch.ones(4)
    fused.rms_norm(x, gain).sum().backward()
    with fused.plain():
        (want,) = torch.autograd.grad(fused.rms_norm(x, gain).sum(), x)
    assert x.grad is not None
    assert_close(x.grad, want)


def test_what_needs_no_gradient_gets_none_and_nothing_is_kept_for_it() -> None:
    x, weight = torch.randn(3, 4), torch.randn(5, 4, requires_grad=True)
    fused.linear(x, weight).sum().backward()
    assert x.grad is None and weight.grad is not None
    with torch.no_grad():
        assert not fused.linear(x, weight).requires_grad and not fused.swiglu(torch.randn(2, 4)).requires_grad


def test_counted_flops_are_the_products_whoever_computes_them() -> None:
    def flops(residual: Tensor | None) -> int:
        x, weight = torch.randn(2, 3, 4, requires_grad=True), torch.randn(5, 4, requires_grad=True)
        with FlopCounterMode(display=False) as counter:
            fused.linear(x, weight, residual).sum().backward()
        return int(counter.get_total_flops())

    for residual in (None, torch.randn(2, 3, 5)):
        with fused.plain():
            wanted = flops(residual)
        assert flops(residual) == wanted == 3 * 2 * 6 * 4 * 5


def test_under_autocast_the_plain_product_runs_in_its_type() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        assert fused.linear(torch.randn(2, 4), torch.randn(3, 4)).dtype == torch.bfloat16
