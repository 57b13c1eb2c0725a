"""Latent pooling and symlog two-hot losses as fused Triton kernels, with plain PyTorch beside each.

Needs torch, and Triton where there is a GPU. Every operation is a dispatcher op that torch.compile sees through.
"""

from fastdreamer_kernels.decode import two_hot_decode
from fastdreamer_kernels.latent_pool import latent_pool
from fastdreamer_kernels.launch import record_launches
from fastdreamer_kernels.reference import symexp_bins, symlog, two_hot_encode
from fastdreamer_kernels.rows import padded
from fastdreamer_kernels.two_hot import two_hot_loss

__all__ = [
    "latent_pool", "padded", "record_launches", "symexp_bins", "symlog", "two_hot_decode", "two_hot_encode",
    "two_hot_loss",
]  # fmt: skip
