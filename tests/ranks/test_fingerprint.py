"""A fingerprint changes with every bit of a tensor, and with its place."""

from __future__ import annotations

import pytest
import torch

from fastdreamer.ranks import fingerprint as module
from fastdreamer.ranks.fingerprint import fingerprint

TYPES = [torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.int32, torch.uint8, torch.bool]


@pytest.mark.parametrize("dtype", TYPES)
def test_it_is_the_same_for_the_same_bits_alone(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK", 8)
    values = torch.randint(0, 2, (3, 7), generator=torch.Generator().manual_seed(0)).to(dtype)
    found = fingerprint(values)
    assert found.dtype == torch.int64 and torch.equal(found, fingerprint(values.clone()))
    assert torch.equal(found, fingerprint(values.T.contiguous().T))  # however it lies in memory
    for place in range(21):
        other = values.clone()
        other.view(-1)[place] = ~other.view(-1)[place] if dtype == torch.bool else other.view(-1)[place] + 1
        assert not torch.equal(found, fingerprint(other))


def test_the_last_bit_a_sign_of_zero_and_an_exchange_are_seen() -> None:
    values = torch.tensor([1.0, 2.0, 0.0, 3.0])
    least = values.clone()
    least.view(torch.int32)[1] += 1
    others = [least, torch.tensor([1.0, 2.0, -0.0, 3.0]), torch.tensor([2.0, 1.0, 0.0, 3.0]), values[:3], values * 2]
    assert len({int(fingerprint(x)) for x in [values, *others, torch.empty(0)]}) == 7
    assert torch.equal(fingerprint(torch.tensor(float("nan"))), fingerprint(torch.tensor(float("nan"))))
