"""The critic of phase 3: whether it fits the policy that plays, and the slow copy that returns start from."""

from __future__ import annotations

from copy import deepcopy

import torch
from jaxtyping import Float
from torch import Tensor, nn

DECAY = 0.8
"""The decay of the running moments of the advantages: they span the last five batches or so."""


class Calibration(nn.Module):
    """Whether the critic fits: opens once the advantages have no common bias, and stays open.

    Where a critic judges another policy than the one that plays, most advantages have one sign, and PMPO's two sets say
    how good the old policy was, not which action is. The moments live on the device; asking waits for nothing.
    """

    mean: Tensor
    square: Tensor
    weight: Tensor
    opened: Tensor

    def __init__(self, bias: float) -> None:
        super().__init__()
        self.bias = bias
        for name in ("mean", "square", "weight"):
            self.register_buffer(name, torch.zeros(()))
        self.register_buffer("opened", torch.tensor(float(bias == 0)))

    @property
    def share(self) -> Tensor:
        """The running mean of the advantages over their RMS, without sign."""
        return (self.mean / self.weight.clamp(min=1e-12)).abs() / (
            (self.square / self.weight.clamp(min=1e-12)).sqrt().clamp(min=1e-8)
        )

    @torch.no_grad()
    def see(self, advantage: Float[Tensor, "b h"], skipped: Tensor | None = None) -> None:
        """Takes a batch's advantages in, if all are numbers; nothing where `skipped` (bool) is true, without asking."""
        rate = torch.full_like(self.weight, 1 - DECAY)
        rate = rate * advantage.isfinite().all()  # what is no number would count as a bias of 0
        if skipped is not None:
            rate = rate * ~skipped
        self.mean.lerp_(advantage.mean().nan_to_num(), rate)
        self.square.lerp_(advantage.square().mean().nan_to_num(), rate)
        self.weight.lerp_(torch.ones_like(self.weight), rate)
        fits = (self.share <= self.bias) & (self.weight > 0)
        self.opened.copy_(torch.maximum(self.opened, fits.float()))


class SlowCopy(nn.Module):
    """A module's running average, which changes by `follow` alone.

    Source: DreamerV3 (arXiv:2301.04104), section "Critic learning".
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        super().__init__()
        self.decay = decay
        self.module = deepcopy(module).requires_grad_(False)

    @torch.no_grad()
    def follow(self, module: nn.Module) -> None:
        """Moves the copy towards the module."""
        own: list[Tensor] = list(self.module.parameters())
        theirs: list[Tensor] = list(module.parameters())
        torch._foreach_lerp_(own, theirs, 1 - self.decay)
