"""Parts of the optimisation: Muon, schedule, running loss scales, exponential moving average."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fastdreamer.config import TrainConfig
from fastdreamer.errors import UserError
from fastdreamer.ranks.sharding import WHOLE, Shards, local_state

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5
GATHERED_BYTES = 2**28
"""Matrices that are held in parts are gathered so many bytes at a time."""


class Muon(torch.optim.Optimizer):
    """Muon for the weight matrices between a network's first and last layer; decoupled weight decay, Nesterov momentum.

    Its updates are made orthogonal, all matrices of one shape at a time.
    Source: Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks"; the step is scaled to the
    size of AdamW's, so that both share a learning rate (Liu et al. 2025, arXiv:2502.16982). Equals `torch.optim.Muon`,
    which goes through the matrices one by one and always in bf16: sixteen times slower on a CPU without bf16.

    Args:
        found_inf: a flag as torch's fused optimisers take: where it is 1, `step` changes nothing; None never asks.
        shards: tells matrices that are parts: their directions are gathered, made orthogonal whole on every rank, and
            each keeps its own rows. That sends 4 bytes a weight, and the work is not divided.

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
        shards: Shards = WHOLE,
    ) -> None:
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})
        self.found_inf, self.shards = found_inf, shards
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
            alike: dict[tuple[torch.Size, torch.device, int], list[Tensor]] = {}
            for p in group["params"]:
                if p.grad is not None:
                    alike.setdefault((p.shape, p.device, self.shards.rows_of(p)), []).append(p)
            for (shape, _, rows), all_members in alike.items():
                size = 0.2 * max(rows or shape[0], shape[1]) ** 0.5  # the RMS of AdamW's updates is about 0.2
                at_once = max(1, GATHERED_BYTES // (4 * rows * shape[1])) if rows else len(all_members)
                for first in range(0, len(all_members), at_once):
                    members = all_members[first : first + at_once]
                    update = self._updates(members, rows, group["momentum"], skipped).mul_(goes)
                    torch._foreach_mul_(members, decay)
                    torch._foreach_add_(members, update.unbind(), alpha=-rate * size)

    def _updates(
        self, members: Sequence[Tensor], rows: int, momentum: float, skipped: Tensor | None
    ) -> Float[Tensor, "n i o"]:
        """Updates of matrices of one shape; of parts (`rows` of the whole) this rank's rows of them."""
        directions = self._directions(members, momentum, skipped)
        if not rows:
            return orthogonalise(directions)
        return self.shards.own(orthogonalise(self.shards.whole(directions, rows, dim=1)), dim=1).clone()

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


def learning_rate(config: TrainConfig, step: int) -> float:
    """Linear warm-up, then a cosine to `final_rate` of the peak at the last step."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    done = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    floor = config.final_rate
    return config.learning_rate * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, done))))


def build_optimizers(
    parameters: Iterable[tuple[str, nn.Parameter]],
    config: TrainConfig,
    rates: Mapping[str, float] | None = None,
    found_inf: Tensor | None = None,
    shards: Shards = WHOLE,
) -> list[torch.optim.Optimizer]:
    """AdamW for all, or Muon for the matrices of transformer blocks and AdamW for the rest.

    Matrices decay, vectors (norms, biases, single embeddings) do not. `rates` are factors of the learning rate by the
    beginning of a parameter's name; a group keeps its own as `rate`. While `found_inf` is 1, steps change nothing.

    Raises:
        UserError: if Muon is asked for where there are no transformer blocks to train.
    """
    named = [(n, p) for n, p in parameters if p.requires_grad]
    hidden = [p for n, p in named if ".blocks." in n and p.ndim == 2] if config.optimizer == "muon" else []
    if config.optimizer == "muon" and not hidden:
        raise UserError("optimizer muon is for a transformer's blocks, and this phase trains none; set it to adamw")
    taken = set(map(id, hidden))
    rest: dict[float, list[nn.Parameter]] = {1.0: []}
    for name, p in named:
        if id(p) not in taken:
            factor = next((rate for start, rate in (rates or {}).items() if name.startswith(start)), 1.0)
            rest.setdefault(factor, []).append(p)
    groups = [
        {"params": [p for p in own if (p.ndim >= 2) is decays], "weight_decay": decay, "rate": factor}
        for factor, own in rest.items()
        for decays, decay in ((True, config.weight_decay), (False, 0.0))
    ]
    adamw = torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.99), eps=1e-8, fused=True)
    adamw.found_inf = found_inf  # type: ignore[attr-defined]  # torch takes it no other way
    if not hidden:
        return [adamw]
    return [adamw, Muon(hidden, config.learning_rate, config.weight_decay, found_inf=found_inf, shards=shards)]


class RunningScale(nn.Module):
    """Divides each loss term by a running RMS of itself, detached, so that terms of any size weigh the same.

    The RMS is that of the steps before: it is known before the forward pass, so a batch may come in parts, and a fused
    loss takes the factor in (its gradient is then final). The first step of all has factor 1.
    Source: Dreamer 4 (arXiv:2509.24527), section 3.1.
    """

    square: Tensor
    weight: Tensor

    def __init__(self, names: Iterable[str], decay: float = 0.99) -> None:
        super().__init__()
        self.names, self.decay = tuple(names), decay
        self.register_buffer("square", torch.zeros(len(self.names)))
        self.register_buffer("weight", torch.zeros(()))

    def factors(self) -> dict[str, Tensor]:
        """1 / RMS of each term."""
        rms = (self.square / self.weight.clamp(min=1e-12)).sqrt().clamp(min=1e-8)
        factor = torch.where(self.weight > 0, 1 / rms, torch.ones_like(rms))
        return dict(zip(self.names, factor.unbind(), strict=True))

    @torch.no_grad()
    def update(self, losses: Mapping[str, Tensor], skipped: Tensor | None = None) -> None:
        """Takes in the unscaled losses of a whole batch; nothing where `skipped` (bool) is true, without asking."""
        square = torch.stack([losses[name] for name in self.names]).float().square()
        weight = torch.ones_like(self.weight)
        if skipped is not None:
            square, weight = torch.where(skipped, self.square, square), torch.where(skipped, self.weight, weight)
        self.square.lerp_(square, 1 - self.decay)
        self.weight.lerp_(weight, 1 - self.decay)


class EMA:
    """Exponential moving average of a module's state, with the bias of its start corrected by a growing decay.

    Of sharded parameters it holds this rank's rows.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.state = {k: v.clone() for k, v in local_state(module).items()}

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        """Moves towards the module's state after step `step` (0 is the first)."""
        rate = 1 - min(self.decay, (1 + step) / (10 + step))
        state = local_state(module)
        names = [name for name, value in state.items() if value.is_floating_point()]
        torch._foreach_lerp_([self.state[name] for name in names], [state[name] for name in names], rate)
        for name in state.keys() - set(names):
            self.state[name].copy_(state[name])
