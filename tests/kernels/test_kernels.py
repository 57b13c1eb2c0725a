"""Every kernel against fp64: values, gradients, awkward shapes and types, extreme numbers, memory nobody wrote."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from fastdreamer_kernels import latent_pool, symexp_bins, two_hot_decode, two_hot_loss
from fastdreamer_kernels.launch import IS_INTERPRETED
from fastdreamer_kernels.specs import NAMES, SPECS, KernelSpec
from torch import Tensor

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
CASES = [
    pytest.param(spec, shape, id=f"{spec.name}-{'x'.join(map(str, shape))}") for spec in SPECS for shape in spec.shapes
]
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=NAMES.values())


def _double(values: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(v.double() if isinstance(v, Tensor) else v for v in values)


def _value_and_gradient(
    call: Any, x: Tensor, others: tuple[Any, ...], seed: int | None, **how: Any
) -> tuple[Tensor, Tensor]:
    """With a random incoming gradient, or that of a sum where there is no seed."""
    x = x.detach().requires_grad_()
    out = call(x, *others, **how)
    incoming = torch.ones(()).expand(out.shape)
    if seed is not None:
        incoming = torch.randn(out.shape, generator=torch.Generator().manual_seed(seed))
    out.backward(incoming.to(out))
    assert x.grad is not None and x.grad.dtype == x.dtype
    return out.detach(), x.grad


def _assert_as_exact(
    name: str, kernel: Tensor, plain: Tensor, truth: Tensor, tiny: float, rounding: float = 0.0
) -> None:
    """Twice plain PyTorch's error, a tiny share of the largest value, and each element's own extra rounding."""
    assert kernel.shape == truth.shape
    if not truth.numel():
        return
    ours, theirs = (kernel.double() - truth).abs(), (plain.double() - truth).abs().max()
    allowed = 2 * theirs + tiny * truth.abs().max() + rounding * truth.abs()
    worst = (ours - allowed).max()
    assert worst <= 0, (
        f"{name}: {float(worst):.3g} above {float(allowed.max()):.3g}; plain PyTorch's {float(theirs):.3g}"
    )


@dtypes
@pytest.mark.parametrize(("spec", "shape"), CASES)
def test_values_and_gradients_are_as_exact_as_plain_pytorch(
    spec: KernelSpec, shape: tuple[int, ...], dtype: torch.dtype, device: str, poisoned: None
) -> None:
    x, others = spec.make(shape, dtype, device)
    seed = None if spec.name == "two_hot_loss" else 1  # its own test below
    truth = _value_and_gradient(spec.plain, x.double(), _double(others), seed)
    plain = _value_and_gradient(spec.plain, x, others, seed)
    kernel = _value_and_gradient(spec.call, x, others, seed, kernel=True)
    for name, ours, theirs, exact in zip(("value", "gradient"), kernel, plain, truth, strict=True):
        assert ours.isfinite().all(), name
        _assert_as_exact(name, ours, theirs, exact, spec.tiny, _interpreter_rounding(dtype))


@dtypes
def test_any_incoming_gradient_costs_a_second_rounding_and_no_more(dtype: torch.dtype, device: str) -> None:
    spec = next(spec for spec in SPECS if spec.name == "two_hot_loss")
    x, others = spec.make((63, 101, 104), dtype, device)
    truth = _value_and_gradient(spec.plain, x.double(), _double(others), 1)[1]
    plain = _value_and_gradient(spec.plain, x, others, 1)[1]
    kernel = _value_and_gradient(spec.call, x, others, 1, kernel=True)[1]
    second = torch.finfo(dtype).eps / 2 if dtype != torch.float32 else 0.0
    _assert_as_exact("gradient", kernel, plain, truth, spec.tiny, second + 2 * _interpreter_rounding(dtype))


def _interpreter_rounding(dtype: torch.dtype) -> float:
    """Triton's interpreter cuts bf16 off where a GPU rounds it: up to one unit in the last place, relative."""
    return torch.finfo(dtype).eps if IS_INTERPRETED and dtype == torch.bfloat16 else 0.0


@dtypes
@pytest.mark.parametrize("out_dtype", DTYPES, ids=NAMES.values())
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "sliced"])
def test_pool_takes_any_layout_affine_and_output_type(
    layout: str, dtype: torch.dtype, out_dtype: torch.dtype, device: str, poisoned: None
) -> None:
    x = torch.randn(2, 16, 3, 8, 24, generator=torch.Generator().manual_seed(0)).to(device, dtype)
    if layout == "channels_last":
        x = x.to(memory_format=torch.channels_last_3d)
    if layout == "sliced":
        x = x.repeat(1, 1, 2, 1, 2)[:, :, 1::2, :, 4:20]
    scale, shift = (torch.rand(3, 16, device=device) + 0.5 for _ in range(2))
    truth = _value_and_gradient(reference_pool, x.double(), (4, scale.double(), shift.double()), 2)
    plain = _value_and_gradient(latent_pool, x, (4, scale, shift), 2, kernel=False, out_dtype=out_dtype)
    kernel = _value_and_gradient(latent_pool, x, (4, scale, shift), 2, kernel=True, out_dtype=out_dtype)
    rounding = _interpreter_rounding(dtype) + _interpreter_rounding(out_dtype)
    for name, ours, theirs, exact in zip(("value", "gradient"), kernel, plain, truth, strict=True):
        assert ours.dtype == theirs.dtype
        _assert_as_exact(name, ours, theirs, exact, 1e-6, rounding)
    assert (kernel[1].stride(1) == 1) == (layout == "channels_last")


def reference_pool(x: Tensor, pool: int, scale: Tensor, shift: Tensor) -> Tensor:
    from fastdreamer_kernels import reference

    return reference.latent_pool(x, pool, scale, shift)


def test_two_hot_takes_strided_rows_many_axes_and_no_weights(device: str, poisoned: None) -> None:
    centres = symexp_bins(41, 3.0, device)
    wide = torch.randn(4, 6, 64, device=device)
    logits, targets = wide[:, 1:4, :48], torch.randn(4, 6, device=device)[:, 1:4]
    ours = two_hot_loss(logits, targets, centres, expectation=True, kernel=True)
    theirs = two_hot_loss(logits, targets, centres, expectation=True, kernel=False)
    for one, other in zip(ours, theirs, strict=True):
        assert one.shape == (4, 3)
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
    rows = torch.randn(9, 64, device=device)[:, :48]  # 64 apart
    torch.testing.assert_close(two_hot_decode(rows, centres, kernel=True), two_hot_decode(rows, centres, kernel=False))
    transposed = torch.randn(41, 7, device=device).T
    torch.testing.assert_close(
        two_hot_decode(transposed, centres, kernel=True), two_hot_decode(transposed, centres, kernel=False)
    )


@pytest.mark.parametrize("bins", [41, 101, 255, 301])  # a plain sum is off by -32 at 101 bins, by 256 at 301
def test_equal_logits_decode_to_exactly_zero(bins: int, device: str) -> None:
    centres = symexp_bins(bins, 20.0, device)
    logits = torch.full((3, bins), 0.7, device=device)
    assert torch.equal(two_hot_decode(logits, centres, kernel=True), torch.zeros(3, device=device))
    decoded = two_hot_loss(logits, torch.ones(3, device=device), centres, expectation=True, kernel=True)[1]
    assert torch.equal(decoded, torch.zeros(3, device=device))


@dtypes
def test_extreme_logits_and_targets_stay_in_their_row(dtype: torch.dtype, device: str, poisoned: None) -> None:
    centres, inf, nan = symexp_bins(41, 3.0, device), float("inf"), float("nan")
    logits = torch.randn(9, 41, generator=torch.Generator().manual_seed(0))
    targets = torch.randn(9, generator=torch.Generator().manual_seed(1))
    logits[0, 3], logits[1] = 1e4, -1e4
    targets[2:6] = torch.tensor([1e4, -1e4, inf, -inf])
    logits[6, 0] = -inf  # far from the target: probability 0, no harm
    targets[6] = 0.1
    targets[7], logits[8, 5] = nan, nan
    logits, targets = logits.to(device, dtype), targets.to(device)
    results = {}
    for kernel in (True, False):
        x = logits.clone().requires_grad_()
        loss, decoded = two_hot_loss(x, targets, centres, expectation=True, kernel=kernel)
        loss.sum().backward()
        assert x.grad is not None
        results[kernel] = (loss.detach(), x.grad, decoded)
    for kernel in (True, False):
        loss, gradient, decoded = results[kernel]
        assert loss[:7].isfinite().all() and gradient[:7].isfinite().all() and decoded[:8].isfinite().all()
        assert loss[7:].isnan().all() and gradient[7:].isnan().all() and decoded[8].isnan()
    for ours, theirs in zip(results[True], results[False], strict=True):
        torch.testing.assert_close(
            ours, theirs, atol=1e-2 if dtype != torch.float32 else 1e-5, rtol=1e-2, equal_nan=True
        )


def test_infinite_logits_and_weights_do_what_plain_pytorch_does(device: str) -> None:
    centres, inf = symexp_bins(41, 3.0, device), float("inf")
    logits = torch.randn(6, 41, generator=torch.Generator().manual_seed(0))
    targets, weights = torch.zeros(6), torch.ones(6)
    logits[0, 3] = inf  # NaN: inf - inf
    logits[1, 20] = -inf  # the target's own bin: an infinite loss, a finite gradient
    logits[2] = -inf
    weights[3], weights[4] = float("nan"), inf
    results = []
    for kernel in (True, False):
        x = logits.to(device).requires_grad_()
        loss = two_hot_loss(x, targets.to(device), centres, weights.to(device), kernel=kernel)
        loss.sum().backward()
        assert x.grad is not None
        results.append((loss.detach(), x.grad, two_hot_decode(x.detach(), centres, kernel=kernel)))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, equal_nan=True, atol=1e-5, rtol=1e-5)
        assert ours[5].isfinite().all()
    assert results[0][0][0].isnan() and results[0][0][1] == inf and results[0][1][1].isfinite().all()


@dtypes
def test_a_bad_latent_spoils_its_own_token_and_no_other(dtype: torch.dtype, device: str) -> None:
    x = torch.full((1, 16, 1, 8, 8), 1e4, dtype=dtype, device=device)
    x[0, 3, 0, 5, 1], x[0, 7, 0, 0, 0] = float("nan"), float("inf")
    out = latent_pool(x, 4, kernel=True)
    assert out[0, 0, 2, 3].isnan() and out[0, 0, 0, 7] == float("inf")
    out[0, 0, 2, 3] = out[0, 0, 0, 7] = 1e4
    torch.testing.assert_close(out, torch.full_like(out, 1e4))


def test_small_weights_do_not_underflow_in_half_precision(device: str) -> None:
    rows, scale = 64, 65536.0
    centres = symexp_bins(41, 3.0, device)
    logits = torch.randn(rows, 48, generator=torch.Generator().manual_seed(0)).to(device, torch.float16)
    weights = torch.full((rows,), 1 / scale, device=device)
    gradients = []
    for x in (logits, logits.float()):
        x = x.clone().requires_grad_()
        (two_hot_loss(x, torch.zeros(rows, device=device), centres, weights, kernel=True).sum() * scale).backward()
        assert x.grad is not None
        gradients.append(x.grad.float())
    torch.testing.assert_close(*gradients, atol=1e-6, rtol=2e-3)


def test_a_factor_of_one_leaves_the_gradient_of_the_forward_pass(device: str) -> None:
    centres = symexp_bins(41, 3.0, device)
    logits = torch.randn(5, 48, device=device, requires_grad=True)
    loss = two_hot_loss(logits, torch.ones(5, device=device), centres, kernel=True)
    loss.backward(torch.tensor([1.0, 2.0, 1.0, float("nan"), 0.0], device=device))
    gradient = logits.grad
    logits.grad = None
    two_hot_loss(logits, torch.ones(5, device=device), centres, kernel=False).sum().backward()
    assert gradient is not None and logits.grad is not None
    torch.testing.assert_close(gradient[:3], logits.grad[:3] * torch.tensor([[1.0], [2.0], [1.0]], device=device))
    assert gradient[3].isnan().all() and not gradient[4].any()
