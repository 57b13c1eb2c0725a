"""What a policy saw, did and was paid while it played, kept as episodes like those of a latent store."""

from __future__ import annotations

from itertools import chain

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy import ndarray
from torch import Tensor

from fastdreamer.latents.store import Episode


class Trace:
    """Fills up while `closed_loop.play` runs; worlds that have ended take no more room (a step is 512 bytes a world).

    Only for play that executes whole chunks: then the latents are those that encoding the play would give.
    """

    def __init__(self) -> None:
        self._seen: list[tuple[list[int], Tensor]] = []
        self._done: list[list[Tensor]] = []

    def see(self, latents: Float[Tensor, "e n z"], playing: Bool[ndarray, " e"]) -> None:
        """Keep the step that was arrived at, of the worlds that were playing before it."""
        worlds = np.flatnonzero(playing).tolist()
        self._seen.append((worlds, latents[worlds].half().cpu()))

    def do(
        self,
        actions: Int[ndarray, "e k"],
        rewards: Float[ndarray, " e"],
        terminated: Bool[ndarray, " e"],
        active: Bool[ndarray, " e"],
    ) -> None:
        """Keep a frame's actions and what they led to, in the worlds that were active."""
        kinds = ((actions, torch.uint8), (rewards, torch.float32), (terminated, torch.bool), (active, torch.bool))
        self._done.append([torch.tensor(values, dtype=kind) for values, kind in kinds])  # copies

    def episodes(self, name: str, task: int = 0) -> list[Episode]:
        """The traces as episodes, one a world."""
        actions, rewards, terminals, active = (torch.stack(x) for x in zip(*self._done, strict=True))
        lengths = active.sum(0).tolist()
        latents: list[list[Tensor]] = [[] for _ in lengths]
        for world, step in chain.from_iterable(zip(worlds, steps, strict=True) for worlds, steps in self._seen):
            latents[world].append(step)
        return [
            Episode(
                name=f"{name}-{world}",
                split="played",
                latents=torch.stack(latents[world]),
                actions=actions[:length, world],
                rewards=rewards[:length, world],
                terminals=terminals[:length, world],
                valid=torch.ones(length + 1, dtype=torch.bool),
                task=task,
            )
            for world, length in enumerate(lengths)
        ]
