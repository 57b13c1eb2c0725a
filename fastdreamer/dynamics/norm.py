"""RMSNorm that stays one fused call under autocast."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F


class RMSNorm(nn.RMSNorm):
    """RMSNorm in the input's type; the gain is kept in fp32 and cast. Source: arXiv:1910.07467.

    Autocast on a GPU would lift it to fp32 and keep twice the memory; the kernel sums in fp32 anyway.
    """

    def __init__(self, width: int) -> None:
        super().__init__(width, eps=1e-6)

    def forward(self, x: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
        with torch.autocast(x.device.type, enabled=False):
            return F.rms_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.eps)
