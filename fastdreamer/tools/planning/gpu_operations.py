"""A GPU's operations in a CPU's place: what a fake run on a CPU must do otherwise to hold what a GPU would hold."""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

from fastdreamer.dynamics.attention import Attention
from fastdreamer.dynamics.norm import RMSNorm


def use_gpu_operations(model: nn.Module) -> None:
    """Attention is fused in bf16 too, and RMSNorm is one operation.

    A CPU build of torch takes the norm apart and keeps three fp32 copies of its input.
    """
    for module in model.modules():
        if isinstance(module, Attention):
            module.is_fused = True
        elif isinstance(module, RMSNorm):
            module.forward = MethodType(_fused_norm, module)  # type: ignore[method-assign]


def _fused_norm(norm: RMSNorm, x: Tensor) -> Tensor:
    out: Tensor = _FusedNorm.apply(x, norm.weight.to(x.dtype))  # type: ignore[no-untyped-call]
    return out


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
