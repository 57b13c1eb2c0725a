"""Muon: momentum whose matrix updates are made orthogonal, all matrices of one shape at a time.

Source: Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks"; the step is scaled to the size of
AdamW's, so that both share a learning rate (Liu et al. 2025, arXiv:2502.16982). Equals `torch.optim.Muon`, which goes
through the matrices one by one and always in bf16: sixteen times slower on a CPU without bf16 instructions.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5


class Muon(torch.optim.Optimizer):
    """Muon for the weight matrices between a network's first and last layer; decoupled weight decay, Nesterov momentum.

    Args:
        found_inf: a flag as torch's fused optimisers take: where it is 1, `step` changes nothing; None never asks.

    Raises:
        ValueError: if a parameter is not a matrix.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        lr: float,
        weight_decay: float = 0.0,
        momentum: float = 0.95,
        found_inf: Tensor | None = None,
    ) -> None:
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})
        self.found_inf = found_inf
        for group in self.param_groups:
            if odd := [tuple(p.shape) for p in group["params"] if p.ndim != 2]:
                raise ValueError(f"Muon updates matrices, not parameters of shape {odd[0]}")

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient; none where `found_inf` is 1, without waiting for it."""
        assert closure is None
        skipped = None if self.found_inf is None else self.found_inf.bool()
        goes = 1.0 if self.found_inf is None else 1 - self.found_inf
        for group in self.param_groups:
            rate, decay = group["lr"], 1 - goes * (group["lr"] * group["weight_decay"])
            alike: dict[tuple[torch.Size, torch.device], list[Tensor]] = {}
            for p in group["params"]:
                if p.grad is not None:
                    alike.setdefault((p.shape, p.device), []).append(p)
            for (shape, _), members in alike.items():
                update = orthogonalise(self._directions(members, group["momentum"], skipped)).mul_(goes)
                size = 0.2 * max(shape) ** 0.5  # the root mean square of AdamW's updates is about 0.2
                torch._foreach_mul_(members, decay)
                torch._foreach_add_(members, update.unbind(), alpha=-rate * size)

    def _directions(self, members: Sequence[Tensor], momentum: float, skipped: Tensor | None) -> Float[Tensor, "n i o"]:
        """Directions of matrices of one shape. A skipped gradient counts as the momentum itself, which then stays."""
        for p in members:
            if "momentum_buffer" not in self.state[p]:
                self.state[p]["momentum_buffer"] = torch.zeros_like(p)
        buffers = [self.state[p]["momentum_buffer"] for p in members]
        moments = torch.stack(buffers)
        gradients = torch.stack([p.grad for p in members if p.grad is not None])
        if skipped is not None:
            torch.where(skipped, moments, gradients, out=gradients)
        moments.lerp_(gradients, 1 - momentum)
        torch._foreach_copy_(buffers, moments.unbind())
        return gradients.lerp_(moments, momentum)


def orthogonalise(matrices: Float[Tensor, "n i o"], eps: float = 1e-7) -> Float[Tensor, "n i o"]:
    """Approximate U V^T of each singular value decomposition (singular values 0.7 to 1.2) by Newton-Schulz steps."""
    a, b, c = COEFFICIENTS
    x = matrices.to(_product_type(matrices.device))
    is_tall = x.shape[-2] > x.shape[-1]
    x = x.mT if is_tall else x
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=eps)
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.mT if is_tall else x).to(matrices.dtype, memory_format=torch.contiguous_format, copy=is_tall)


def _product_type(device: torch.device) -> torch.dtype:
    fast = device.type == "cuda" or torch.cpu._is_avx512_bf16_supported()
    return torch.bfloat16 if fast else torch.float32
