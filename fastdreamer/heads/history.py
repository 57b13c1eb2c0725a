"""What was done lately, as a fading trace of actions: a memory of a few dozen numbers for heads that read one picture.

e_k = decay e_{k-1} + (multi-hot of the chunk that led into step k). The order of the newest actions can be read off it:
which way the player turned last, what was tried just now in vain. A frozen tokenizer with few latents blurs both.
Source: ours; eligibility traces in Sutton & Barto, section 12.1, have the same form.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from fastdreamer.dynamics.tokens import choice_offsets, multi_hot


class History(nn.Module):
    """Traces of chunks of `chunk` actions with components of these sizes; nothing trains."""

    offsets: Tensor

    def __init__(self, decay: float, chunk: int, sizes: tuple[int, ...]) -> None:
        super().__init__()
        self.decay, self.width = decay, chunk * sum(sizes)
        self.register_buffer("offsets", choice_offsets(chunk, sizes), persistent=False)

    def start(self, count: int) -> Float[Tensor, "b h"]:
        """The trace before anything was done."""
        return torch.zeros(count, self.width, device=self.offsets.device)

    def after(
        self, trace: Float[Tensor, "b h"], actions: Int[Tensor, "b c k"], known: Bool[Tensor, "b c"]
    ) -> Float[Tensor, "b h"]:
        """The trace at the step that a chunk led into."""
        return self.decay * trace + multi_hot(actions[:, None], known[:, None], self.offsets, self.width)[:, 0]

    def along(self, actions: Int[Tensor, "b l c k"], known: Bool[Tensor, "b l c"]) -> Float[Tensor, "b l h"]:
        """The traces of a sequence that begins with nothing before its first step's chunk.

        Args:
            actions: the chunk that led INTO each step.
            known: mask of the positions that are known.
        """
        trace, traces = self.start(len(actions)), []
        for step in range(actions.shape[1]):
            trace = self.after(trace, actions[:, step], known[:, step])
            traces.append(trace)
        return torch.stack(traces, 1)
