"""Two-hot and pooling: the reference that every kernel is held against."""

from __future__ import annotations

import pytest
import torch
from fastdreamer_kernels import latent_pool, symexp_bins, two_hot_decode, two_hot_encode, two_hot_loss

LIMITS = [1.5, 3.0, 20.0]


@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("bins", [41, 255])
def test_two_hot_round_trip_is_exact_inside_the_range(bins: int, limit: float) -> None:
    edge = float(symexp_bins(bins, limit)[-1])
    x = torch.cat([torch.linspace(-edge, edge, 301), torch.tensor([0.0, 0.05, -0.1, 1.0])]).clamp(-edge, edge)
    centres = symexp_bins(bins, limit)
    decoded = (two_hot_encode(x, centres).double() * centres.double()).sum(-1)
    torch.testing.assert_close(decoded.float(), x, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("bins", [41, 255])
def test_equal_logits_decode_to_exactly_zero(bins: int) -> None:
    logits = torch.full((3, bins), 0.7)
    assert torch.equal(two_hot_decode(logits, symexp_bins(bins, 20.0)), torch.zeros(3))


def test_targets_outside_the_range_land_on_its_edge() -> None:
    encoded = two_hot_encode(torch.tensor([1e9, -1e9]), symexp_bins(41, 3.0))
    assert encoded[0, -1] == 1 and encoded[1, 0] == 1


def test_interpolation_is_in_raw_space_and_unbiased() -> None:
    # Symlog-space interpolation would be off by 5.7 % here (range 20, 255 bins).
    target = torch.tensor([0.05])
    centres = symexp_bins(255, 20.0)
    decoded = (two_hot_encode(target, centres).double() * centres.double()).sum(-1)
    assert abs(float(decoded) / 0.05 - 1) < 1e-5


def test_two_hot_loss_is_minimal_at_the_encoded_distribution() -> None:
    target = torch.tensor([0.3])
    centres = symexp_bins(41, 3.0)
    encoded = two_hot_encode(target, centres)
    best = two_hot_loss(encoded.clamp(min=1e-12).log(), target, centres)
    worse = two_hot_loss(torch.zeros(1, 41), target, centres)
    entropy = -(encoded * encoded.clamp(min=1e-12).log()).sum()
    assert torch.allclose(best, entropy, atol=1e-5) and worse > best


@pytest.mark.parametrize("pool", [1, 2, 4, 8])
def test_latent_pool_is_row_major_block_means(pool: int) -> None:
    x = torch.randn(2, 16, 3, 8, 16)
    pooled = latent_pool(x, pool)
    assert pooled.shape == (2, 3, (8 // pool) * (16 // pool), 16)
    row, column = 8 // pool - 1, 16 // pool - 1
    block = x[1, 5, 2, row * pool : (row + 1) * pool, column * pool : (column + 1) * pool]
    torch.testing.assert_close(pooled[1, 2, row * (16 // pool) + column, 5], block.mean())


def test_latent_pool_refuses_sizes_that_do_not_divide() -> None:
    with pytest.raises(ValueError, match="6x6 do not divide into 4x4"):
        latent_pool(torch.zeros(1, 16, 1, 6, 6), 4)
