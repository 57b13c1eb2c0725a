"""A static ring cache of keys and values for the time layers: fixed memory, no concatenation, no eviction cost.

Step t writes slot t mod C and reads every slot that holds one of the steps t-C+1 .. t. Writing the same step again
(the denoising passes of one step) overwrites its slot; `advance` commits it. The position is a tensor, so the whole
step can be captured in a CUDA graph.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from fastdreamer.config import DynamicsConfig


class LayerCache:
    """Keys and values of one time layer; `position` (shape (1,)) is shared by all layers and owned by RingCache."""

    def __init__(
        self, keys: Float[Tensor, "b kv c e"], values: Float[Tensor, "b kv c e"], position: Int[Tensor, "1"]
    ) -> None:
        self.keys, self.values = keys, values
        self.position = position

    def write(self, key: Float[Tensor, "b kv 1 e"], value: Float[Tensor, "b kv 1 e"]) -> tuple[Tensor, Tensor]:
        """Puts the current step into its slot and returns all slots."""
        slot = self.position % self.keys.shape[2]
        self.keys.index_copy_(2, slot, key.to(self.keys.dtype))
        self.values.index_copy_(2, slot, value.to(self.values.dtype))
        return self.keys.to(key.dtype), self.values.to(value.dtype)

    def mask(self) -> Bool[Tensor, "1 c"]:
        """Which slots hold a step of the band: all of them once the ring is full."""
        return (torch.arange(self.keys.shape[2], device=self.keys.device) <= self.position).unsqueeze(0)


class RingCache:
    """One LayerCache a time layer, for `batch` sequences of `tokens` tokens a step."""

    def __init__(
        self, config: DynamicsConfig, batch: int, tokens: int, device: torch.device, dtype: torch.dtype
    ) -> None:
        shape = (batch * tokens, config.kv_heads, config.context, config.dim // config.heads)
        self.position = torch.zeros(1, dtype=torch.long, device=device)
        self.layers = [
            LayerCache(
                torch.zeros(shape, device=device, dtype=dtype),
                torch.zeros(shape, device=device, dtype=dtype),
                self.position,
            )
            for _ in range(0, config.layers, config.time_every)
        ]

    def advance(self) -> None:
        """Commits the current step."""
        self.position += 1

    def reset(self) -> None:
        """Forgets everything without freeing memory (slots beyond the position are masked)."""
        self.position.zero_()
