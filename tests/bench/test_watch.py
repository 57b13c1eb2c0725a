"""What a step does is counted exactly: waits, FLOPs, the memory that it takes and what it keeps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from bench.count import Watch, counts_of

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("step", "syncs"),
    [
        (lambda x: float(x.sum()), 1),
        (lambda x: x[x > 1], 1),
        (lambda x: bool(x.any()), 1),
        (lambda x: torch.tensor(1.0), 1),
        (lambda x: x.nonzero(), 1),
        (lambda x: x.__setitem__(x > 1, 0.0), 2),  # the mask, and the number
        (lambda x: x[torch.arange(2)], 0),
        (lambda x: x.square().sum(), 0),
    ],
)
def test_what_waits_for_the_device_is_counted(step: Callable[[Any], Any], syncs: int) -> None:
    x = torch.arange(4.0)
    assert counts_of(lambda: step(x), CPU)["syncs"] == syncs


def test_flops_are_those_of_products_convolutions_and_attention() -> None:
    a, b = torch.randn(3, 5), torch.randn(5, 7)
    assert counts_of(lambda: a @ b, CPU)["flops"] == 2 * 3 * 5 * 7
    x, w = torch.randn(1, 2, 6, 6), torch.randn(4, 2, 3, 3)
    for inference in (False, True):
        with torch.inference_mode(inference):
            assert counts_of(lambda: F.conv2d(x, w), CPU)["flops"] == 2 * 4 * 4 * 4 * 2 * 9
    q = torch.randn(1, 2, 8, 16)
    assert counts_of(lambda: F.scaled_dot_product_attention(q, q, q), CPU)["flops"] == 2 * (2 * 2 * 8 * 8 * 16)


def test_the_peak_is_of_what_lives_at_once_and_views_take_nothing() -> None:
    def step() -> torch.Tensor:
        first = torch.ones(100)
        second = first.view(10, 10) + 1
        del first
        third = second * 2
        return third.sum()

    counts = counts_of(step, CPU)
    assert counts["peak_bytes"] == 2 * 400 + 4 and counts["left_bytes"] == 0


def test_what_a_step_keeps_is_a_leak_and_what_it_replaces_is_not() -> None:
    kept: list[torch.Tensor] = []
    x = torch.ones(25)
    assert counts_of(lambda: kept.append(x + 1), CPU)["left_bytes"] == 100
    held: dict[str, torch.Tensor] = {}
    assert counts_of(lambda: held.__setitem__("last", x + 1), CPU)["left_bytes"] == 0


def test_backward_passes_are_watched() -> None:
    weight, x = torch.randn(5, 7, requires_grad=True), torch.randn(3, 5)

    def step() -> None:
        weight.grad = None
        (x @ weight).sum().backward()

    counts = counts_of(step, CPU)
    assert counts["flops"] == 2 * (2 * 3 * 5 * 7) and counts["launches"] >= 4 and counts["left_bytes"] == 0


def test_our_operations_are_looked_into() -> None:
    from fastdreamer_kernels import symexp_bins, two_hot_decode

    logits, centres = torch.randn(4, 41), symexp_bins(41, 3.0)
    with Watch() as watch:
        two_hot_decode(logits, centres)
    assert watch.peak > logits.nbytes
