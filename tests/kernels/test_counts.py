"""Launches and bytes of the kernels, exact, as the heads and the tokenizer call them (Triton's interpreter counts)."""

from __future__ import annotations

import pytest
import torch
from fastdreamer_kernels import latent_pool, symexp_bins, two_hot_loss
from fastdreamer_kernels.launch import IS_INTERPRETED
from fastdreamer_kernels.specs import SPECS

from bench.count import count

pytestmark = pytest.mark.skipif(not IS_INTERPRETED, reason="runs with TRITON_INTERPRET=1, as make test does")


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_a_forward_pass_is_its_launches_and_its_floor(spec: object) -> None:
    for shape in spec.shapes:  # type: ignore[attr-defined]
        x, others = spec.make(shape, torch.float32, "cpu")  # type: ignore[attr-defined]
        with count() as counts:
            spec.call(x, *others)  # type: ignore[attr-defined]
        is_empty = x.numel() == 0
        assert len(counts.triton) == (0 if is_empty else spec.launches["forward"])  # type: ignore[attr-defined]
        assert counts.aten == []
        floor = spec.floor(shape, torch.float32)["forward"]  # type: ignore[attr-defined]
        assert counts.bytes <= 1.1 * floor and (is_empty or counts.bytes >= 0.9 * floor), (shape, counts, floor)


def test_pooling_is_one_launch_each_way() -> None:
    x = torch.randn(2, 16, 2, 8, 8, requires_grad=True)
    with count() as forward:
        out = latent_pool(x, 4)
    incoming = torch.ones_like(out)
    with count() as backward:
        out.backward(incoming)
    assert forward.triton == ["latent_pool_kernel"] and forward.aten == []
    assert backward.triton == ["latent_pool_backward_kernel"] and backward.aten == []
    moved = 4 * (x.numel() + out.numel())
    assert forward.bytes == backward.bytes == moved
    with count() as expanded:  # the gradient of a sum is one number, everywhere: it is not copied out
        torch.autograd.grad(latent_pool(x, 4), x, torch.ones(()).expand(out.shape))
    assert expanded.triton == ["latent_pool_kernel", "latent_pool_backward_kernel"]
    assert set(expanded.aten) <= {"ones.default"}


def test_two_hot_forward_and_backward_are_two_launches_at_the_floor() -> None:
    from fastdreamer.config import HeadsConfig
    from fastdreamer.heads.reward import TwoHotHead, shares_of

    rows, head = 64, TwoHotHead(HeadsConfig(hidden=8, layers=1, bins=255), 8, 3.0)
    spec = next(spec for spec in SPECS if spec.name == "two_hot_loss")
    logits = head(torch.randn(rows, 8)).detach().requires_grad_()
    targets, shares = torch.randn(rows), shares_of(torch.ones(rows))
    with count() as counts:
        head.loss(logits, targets, shares).backward()
    assert counts.triton == ["two_hot_kernel", "two_hot_scale_kernel"]
    floor = spec.floor((rows, 255, logits.shape[1]), torch.float32)["both"]
    assert 0.95 * floor < sum(counts.triton_bytes) <= 1.1 * floor, (counts.triton_bytes, floor)
    # One pass: no logit is loaded twice; a program of 8 rows loads three tables of centres and the two ends.
    assert counts.triton_loaded[0] <= 4 * (logits.numel() + 2 * rows + rows // 8 * (3 * 255 + 2))
    # Around the op: the rows' sum, and the 1 that backward() starts from; the shares are worked out once for all heads.
    assert counts.aten == ["sum.default", "ones_like.default"]


def test_another_factor_than_one_is_counted_as_a_second_pass() -> None:
    logits, centres = torch.randn(8, 48, requires_grad=True), symexp_bins(41, 3.0)
    loss = two_hot_loss(logits, torch.zeros(8), centres).sum() * 2
    with count() as counts:
        loss.backward()
    assert counts.triton == ["two_hot_scale_kernel"]
    assert sum(counts.triton_bytes) == 2 * 8 * 48 * 4 + 4
