"""A number for a tensor's bits, made where the tensor lies, so that ranks compare weights without sending them."""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor

CHUNK = 2**20
PRIME = 1_000_003
AS_WHOLE = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def fingerprint(tensor: Tensor) -> Int[Tensor, ""]:
    """64 bits that change with any bit of the tensor and with its place, whatever the number type; int64 wraps."""
    plain = tensor.detach().contiguous().reshape(-1)
    bits = plain.view(AS_WHOLE[plain.element_size()]) if plain.dtype != torch.bool else plain
    found = torch.full((), bits.numel(), dtype=torch.int64, device=bits.device)
    weights = _weights(min(CHUNK, bits.numel()), bits.device)
    for chunk in bits.split(CHUNK) if bits.numel() else ():
        found = found * PRIME + (chunk.to(torch.int64) * weights[: len(chunk)]).sum()
    return found


def _weights(count: int, device: torch.device) -> Int[Tensor, " n"]:
    """Odd numbers that differ from place to place: no single change is lost, no two are likely to cancel."""
    places = torch.arange(1, count + 1, dtype=torch.int64, device=device)
    mixed = places * 0x2545F4914F6CDD1D
    return (mixed ^ (mixed >> 29)) | 1
