"""A static ring cache of keys and values for the time layers: fixed memory, no concatenation, no eviction cost.

Step t lies in slot t mod R and reads the slots of the steps t-C+1 .. t. A forward pass may write several steps at once
(`steps`): R = C + steps - 1 slots keep the oldest of them from losing what its band still holds. Writing the same step
again (the denoising passes of one step) overwrites its slot; `advance` commits. The position is a tensor, so that
a whole step can be captured in a CUDA graph.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from fastdreamer.config import DynamicsConfig
from fastdreamer.shapes import CHANNELS, TOKENS


@dataclass(frozen=True)
class CacheView:
    """The slots in which `l` steps are written and the slots that each of them reads; the same for all layers."""

    steps: Int[Tensor, " l"]
    slots: Int[Tensor, " l"]
    mask: Bool[Tensor, "l r"]


class LayerCache:
    """Keys and values of one time layer."""

    def __init__(self, keys: Float[Tensor, "b kv r e"], values: Float[Tensor, "b kv r e"]) -> None:
        self.keys, self.values = keys, values

    def write(
        self, key: Float[Tensor, "b kv l e"], value: Float[Tensor, "b kv l e"], slots: Int[Tensor, " l"]
    ) -> tuple[Tensor, Tensor]:
        """Puts steps into their slots and returns all slots."""
        self.keys.index_copy_(2, slots, key.to(self.keys.dtype))
        self.values.index_copy_(2, slots, value.to(self.values.dtype))
        return self.keys.to(key.dtype), self.values.to(value.dtype)


class RingCache:
    """A ring cache of `batch` sequences, `tokens` tokens and `agents` agent tokens a step; `position` has shape (1,).

    `layers` has for each time layer the tokens' cache and the agent tokens': a pass without agent tokens leaves
    theirs alone. `equals` is what the first block makes of the registers, which is the same at every step: a cache is
    for the weights that the model had when it was made.
    """

    def __init__(
        self,
        config: DynamicsConfig,
        batch: int,
        tokens: int,
        agents: int,
        device: torch.device,
        dtype: torch.dtype,
        steps: int = 1,
        equals: Float[Tensor, "r d"] | None = None,
    ) -> None:
        self.equals = equals
        self.context, self.size = config.context, config.context + steps - 1
        self.position = torch.zeros(1, dtype=torch.long, device=device)
        # The last committed step as it was seen, and its signal index (0: there is none), for the linear start.
        self.has_newest = config.linear_start
        self.newest = torch.zeros(batch * self.has_newest, TOKENS, CHANNELS, device=device)
        self.newest_signal = torch.zeros(batch * self.has_newest, dtype=torch.long, device=device)

        def empty(count: int) -> LayerCache:
            shape = (batch * count, config.kv_heads, self.size, config.dim // config.heads)
            keys, values = (torch.zeros(shape, device=device, dtype=dtype) for _ in range(2))
            return LayerCache(keys, values)

        # The first layer's registers are the same at every step (see `Transformer`): it keeps none of them.
        counts = [tokens - config.registers, *[tokens] * ((config.layers - 1) // config.time_every)]
        self.layers = [(empty(count), empty(agents)) for count in counts]

    def tensors(self) -> list[Tensor]:
        """All tensors of keys and values."""
        layers = [layer for pair in self.layers for layer in pair]
        return [tensor for layer in layers for tensor in (layer.keys, layer.values)]

    def view(self, steps: int) -> CacheView:
        """The slots of a forward pass of the next `steps` steps; at the start there may be as many steps as slots."""
        query = self.position + torch.arange(steps, device=self.position.device)
        newest = query[-1:]
        slot = torch.arange(self.size, device=self.position.device)
        held = newest - (newest - slot) % self.size  # the step that each slot holds once they are written
        back = query[:, None] - held
        return CacheView(query, query % self.size, (held >= 0) & (back >= 0) & (back < self.context))

    def advance(self, seen: Float[Tensor, "b l n z"], signal: Int[Tensor, "b l"]) -> None:
        """Commits the current steps, whose noisy latents were `seen` at these signal levels."""
        if self.has_newest:
            self.newest.copy_(seen[:, -1])
            self.newest_signal.copy_(signal[:, -1])
        self.position += seen.shape[1]

    def reset(self) -> None:
        """Forgets everything without freeing memory (slots beyond the position are masked)."""
        self.position.zero_()
        self.newest_signal.zero_()
