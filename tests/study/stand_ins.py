"""Games and a tokenizer that cost nothing: a game pays for every third action, and shows what it paid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from fastdreamer.shapes import CHANNELS, TOKENS


class StandInGames:
    """A game ends after `ends` actions; 0: never."""

    def __init__(self, count: int, max_steps: int = 10**9, workers: int = 0, ends: int = 0) -> None:
        self.count, self.max_steps, self.ends = count, max_steps, ends
        self.worlds, self.paid, self.steps = (np.zeros(count, np.int64) for _ in range(3))
        self.begun: list[tuple[int, ...]] = []

    def begin(self, games: Sequence[int], worlds: Sequence[int], tasks: Sequence[str]) -> None:
        self.begun.append(tuple(worlds))
        for game, world in zip(games, worlds, strict=True):
            self.worlds[game], self.paid[game], self.steps[game] = world, 0, 0

    @property
    def frames(self) -> np.ndarray:
        return np.tile((self.paid * 20 % 256).astype(np.uint8)[:, None, None, None], (1, 64, 64, 3))

    def step(self, actions: np.ndarray, active: np.ndarray) -> tuple[Any, ...]:
        rewards = ((actions[:, 0] % 3 == 0) & active).astype(np.float32)
        self.paid = self.paid + rewards.astype(np.int64)
        self.steps = self.steps + active
        ended = active & (self.steps == self.ends)
        capped = active & ~ended & (self.steps >= self.max_steps)
        return self.frames, rewards, ended, capped, [{"achievements": [], "steps": 0}] * self.count

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None: ...


class StandInPool:
    """The same games, all begun together, as an evaluation plays them."""

    def __init__(self, env: str, seeds: Sequence[int], max_steps: int, workers: int) -> None:
        self.games, self.seeds = StandInGames(len(seeds), max_steps), list(seeds)

    @property
    def counters(self) -> list[dict[str, int]]:
        return [{"wood": int(paid)} for paid in self.games.paid]

    def reset(self) -> np.ndarray:
        self.games.begin(range(len(self.seeds)), self.seeds, [""] * len(self.seeds))
        return self.games.frames

    def step(self, actions: np.ndarray, active: np.ndarray) -> tuple[Any, ...]:
        *stepped, infos = self.games.step(actions, active)
        return *stepped, [{**info, "counters": counters} for info, counters in zip(infos, self.counters, strict=True)]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None: ...


class StandInEncoder:
    """Latents from a frame's mean colour."""

    position = 0

    def reset(self, frames: Tensor) -> Tensor:
        self.position = 0
        return self.latents(frames)

    def push(self, frames: Tensor) -> Tensor:
        self.position = 1 + self.position % 4
        return self.latents(frames[:, -1])

    def latents(self, frames: Tensor) -> Tensor:
        return frames.float().mean(dim=(1, 2, 3))[:, None, None].expand(-1, TOKENS, CHANNELS) / 100 - 1


def stand_in_encoder(config: object, count: int, device: torch.device) -> StandInEncoder:
    return StandInEncoder()
