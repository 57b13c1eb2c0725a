"""The arm that takes a phase-1 step as the fastest public implementation does: shortcut forcing on its own network."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from bench.naive import public
from fastdreamer.config import load_config
from fastdreamer.dynamics.forcing import draw_levels, forcing_loss, loss_shares

SMALL = ["device=cpu", "dynamics={dim: 48, layers: 5, heads: 6, kv_heads: 2, time_every: 2, registers: 1}"]


@pytest.mark.parametrize("boots", [0, 2])
def test_the_public_arms_loss_is_ours_of_its_network_and_its_parameters_are_as_many(boots: int) -> None:
    config = load_config("debug", SMALL)
    model = public.as_large(config, 6, 200_000)
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(200_000, rel=0.02)
    nn.init.normal_(model.readout.weight)
    g, finest = torch.Generator().manual_seed(0), config.forcing.finest_steps
    clean, noise = (torch.randn(4, 7, 16, 16, generator=g) for _ in range(2))
    action, levels = torch.rand(4, 7, 6, generator=g), draw_levels(4, 7, finest, boots, g)

    def predict(noisy: Tensor, signal: Tensor, step_size: Tensor, rows: slice) -> Tensor:
        found: Tensor = model(noisy, signal, step_size, action[rows])
        return found

    shares = loss_shares(levels, finest, torch.ones(4, 7, dtype=torch.bool))
    ours = forcing_loss(predict, clean, noise, levels, finest, shares)["dynamics"]
    theirs = public.forcing_loss(model, clean, noise, action, levels, finest)
    assert_close(theirs, ours, rtol=1e-4, atol=1e-5)
    wanted = torch.autograd.grad(ours, list(model.parameters()))
    for got, want in zip(torch.autograd.grad(theirs, list(model.parameters())), wanted, strict=True):
        assert_close(got, want, rtol=1e-3, atol=1e-5)


@torch.no_grad()
def test_the_public_arms_network_is_causal_and_reads_all_it_is_given() -> None:
    config = load_config("debug", SMALL)
    model = public.as_large(config, 6, 200_000)
    nn.init.normal_(model.readout.weight)
    g = torch.Generator().manual_seed(0)
    given = torch.randn(2, 5, 16, 16, generator=g), torch.full((2, 5), 3), torch.full((2, 5), 1), torch.rand(2, 5, 6)
    plain = model(*given)
    for number, other in enumerate((torch.randn(2, 16, 16), torch.tensor(5), torch.tensor(2), torch.rand(2, 6))):
        changed = [x.clone() for x in given]
        changed[number][:, 3] = other
        found = model(*changed)
        assert torch.equal(found[:, :3], plain[:, :3]) and not torch.allclose(found[:, 3], plain[:, 3])
        assert not torch.allclose(found[:, 4], plain[:, 4]), "a later step reads it through the time layers"
