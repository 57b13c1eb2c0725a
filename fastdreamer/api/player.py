"""Playing an environment of one's own."""

from __future__ import annotations

import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from fastdreamer.heads.actor import Actor
from fastdreamer.tokenizer.acting import ActingEncoder
from fastdreamer.tokenizer.frozen import FrozenTokenizer


class Player:
    """The agent in an environment: frames in, actions out; it remembers the episode as far as its heads do."""

    def __init__(self, tokenizer: FrozenTokenizer, actor: Actor, is_greedy: bool = False, seed: int = 0) -> None:
        self.tokenizer, self.actor, self.is_greedy = tokenizer, actor, is_greedy
        self.generator = torch.Generator().manual_seed(seed)
        self.reset()

    def reset(self) -> None:
        """Forgets the episodes: the next frames are the first ones of new ones."""
        self.actor.reset()
        self._encoder: ActingEncoder | None = None

    def act(self, frames: UInt8[Tensor, "e t h w 3"]) -> Int[Tensor, "e c k"]:
        """The next chunk of actions of every episode.

        Args:
            frames: the first frame of each (t is 1); after that the c frames to which the last chunk led.
        """
        if self._encoder is None:
            self._encoder = ActingEncoder(self.tokenizer, len(frames))
            latents = self._encoder.reset(frames[:, 0])
        else:
            latents = self._encoder.push(frames)
        positions = torch.full((len(frames),), self._encoder.position, dtype=torch.int64, device=latents.device)
        return self.actor.act(latents, positions, self.is_greedy, self.generator)
