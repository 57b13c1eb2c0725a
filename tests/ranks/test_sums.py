"""Gradients are added up in flat buckets of a bounded size, with the figures behind them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fastdreamer.ranks import sums as module
from fastdreamer.ranks.sums import Sums


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of the calls; another rank has the same values in all places but this rank's own."""
    calls: list[int] = []

    def all_reduce(flat: Tensor) -> None:
        calls.append(len(flat))
        flat.mul_(2)

    monkeypatch.setattr(module.dist, "all_reduce", all_reduce)
    return calls


def gradients() -> list[Tensor]:
    return [torch.arange(5.0), torch.ones(2, 3), torch.full((17,), 3.0), torch.tensor([4.0])]


@pytest.mark.parametrize(("room", "calls"), [(1000, [34]), (16, [11, 11, 12]), (9, [])])
def test_everything_is_added_up_in_as_few_calls_as_fit(
    room: int, calls: list[int], sent: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BUCKET_BYTES", 4 * room)
    sums, own = Sums(0, 2, torch.device("cpu")), gradients()
    figures = [{"loss": torch.tensor(1.5), "a": torch.tensor(2, dtype=torch.int64)}, {"loss": torch.tensor(0.5)}]
    found = sums.add_up(own, figures)
    assert all(torch.equal(x, 2 * y) for x, y in zip(own, gradients(), strict=True))
    assert [{name: float(x) for name, x in one.items()} for one in found] == [{"loss": 3.0, "a": 4.0}, {"loss": 1.0}]
    assert max(sent) <= room and sum(sent) == 29 + 3 + 2
    assert not calls or sent == calls
    assert sums.calls == len(sent) and sums.bytes == 4 * sum(sent) and sums.not_finite() == []


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("place", [0, 2])
def test_the_rank_whose_gradient_is_not_finite_is_known(value: float, place: int, sent: list[int]) -> None:
    sums, own = Sums(1, 2, torch.device("cpu")), gradients()
    own[place][1] = value
    sums.add_up(own, [{"loss": torch.tensor(1.0)}])
    assert sums.not_finite() == [1]
    sums.add_up(gradients(), [{"loss": torch.tensor(1.0)}])
    assert sums.not_finite() == []
    sums.add_up(gradients(), [{"loss": torch.tensor(value)}])
    assert sums.not_finite() == [1]
