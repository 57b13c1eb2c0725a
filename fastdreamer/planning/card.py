"""A card's operations in a CPU's place: what a fake run on a CPU must do otherwise to hold what a card would hold."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from fastdreamer.dynamics.attention import Attention


class CardOperations(TorchFunctionMode):
    """RMSNorm as one operation: a CPU build of torch takes it apart and keeps three fp32 copies of its input."""

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Everything else goes through as it is."""
        if function is F.rms_norm:
            given = dict(zip(("input", "normalized_shape", "weight"), args, strict=False)) | (kwargs or {})
            return _FusedNorm.apply(given["input"], given["weight"])
        return function(*args, **(kwargs or {}))


class _FusedNorm(torch.autograd.Function):
    """What `aten::_fused_rms_norm` and its backward make and keep: the result, and 1 / RMS of each row in fp32."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gain: Tensor) -> Tensor:
        ctx.save_for_backward(x, gain, x.new_empty((*x.shape[:-1], 1), dtype=torch.float32))
        return torch.empty_like(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        x, gain, _ = ctx.saved_tensors
        return torch.empty_like(x), torch.empty_like(gain)


def use_card_attention(model: nn.Module) -> None:
    """Attention takes the path of a card in bf16: fused."""
    for module in model.modules():
        if isinstance(module, Attention):
            module.is_fused = True
