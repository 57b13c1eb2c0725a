"""Muon: the same as PyTorch's own, orthogonal updates, and only for matrices."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fastdreamer.config import TrainConfig
from fastdreamer.errors import UserError
from fastdreamer.training import optim
from fastdreamer.training.optim import build_optimizers

SHAPES = [(16, 16), (40, 16), (16, 16), (16, 40), (1, 7), (33, 5)]


def _matrices(seed: int) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in SHAPES]


def test_it_takes_the_steps_of_pytorchs_muon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optim, "_product_type", lambda device: torch.bfloat16)  # PyTorch's is always in bf16
    ours, theirs = _matrices(0), _matrices(0)
    optimizers = (
        optim.Muon(ours, lr=0.02, weight_decay=0.1),
        torch.optim.Muon(theirs, lr=0.02, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
    )
    for step in range(3):
        for parameters in (ours, theirs):
            for p, gradient in zip(parameters, _matrices(10 + step), strict=True):
                p.grad = gradient.detach()
        for optimizer in optimizers:
            optimizer.step()
    for one, other, start in zip(ours, theirs, _matrices(0), strict=True):
        assert (one - start).abs().max() > 0.01
        torch.testing.assert_close(one, other, atol=5e-4, rtol=0)  # bf16 products of one or of many matrices


def test_updates_are_orthogonal_in_either_type(monkeypatch: pytest.MonkeyPatch) -> None:
    matrices = torch.randn(3, 24, 60, generator=torch.Generator().manual_seed(0))
    for dtype in (torch.float32, torch.bfloat16):
        monkeypatch.setattr(optim, "_product_type", lambda device, dtype=dtype: dtype)
        for given in (matrices, matrices.mT):
            values = torch.linalg.svdvals(optim.orthogonalise(given))
            assert values.min() > 0.6 and values.max() < 1.3
    assert not optim.orthogonalise(torch.zeros(1, 4, 4)).any()


def test_what_is_not_a_matrix_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(7,\)"):
        optim.Muon([nn.Parameter(torch.zeros(7))], lr=0.1)


def test_blocks_go_to_muon_and_the_rest_to_adamw_once_each() -> None:
    net = nn.ModuleDict({"world": nn.ModuleDict({"blocks": nn.Linear(4, 4), "readout": nn.Linear(4, 2)})})
    adamw, hidden = build_optimizers(net.named_parameters(), TrainConfig(optimizer="muon"))
    names = {id(p): name for name, p in net.named_parameters()}
    owned = [[names[id(p)] for g in o.param_groups for p in g["params"]] for o in (adamw, hidden)]
    assert sorted(owned[0] + owned[1]) == sorted(names.values())
    assert owned[1] == ["world.blocks.weight"]
    with pytest.raises(UserError, match="adamw"):
        build_optimizers(nn.Linear(2, 2).named_parameters(), TrainConfig(optimizer="muon"))


def test_tall_matrices_come_out_in_the_parameters_order() -> None:
    for shape in ((2, 5, 3), (2, 3, 5)):
        found = optim.orthogonalise(torch.randn(shape))
        assert found.is_contiguous(), "torch would add each to its parameter by itself"
