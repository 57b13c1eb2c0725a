"""One episode in memory: what every reader returns and every writer takes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Integer, UInt8


@dataclass(frozen=True)
class Trajectory:
    """An episode of t frames and s = t - 1 steps: row i is (frame i, action i) -> reward i, frame i + 1.

    `valid[i]` False means that frame i's pixels must not be a prediction target (its reward still counts).
    `frames` is (t, 0, 0, 3) when only labels were read. `labelled` False: the actions are unknown (all no-op);
    `rewarded` False: so are the rewards (all 0). `counters` is what the game counts at every frame, by name (see
    `recordings.tasks`); empty where a recording holds none.
    """

    name: str
    frames: UInt8[np.ndarray, "t h w 3"]
    actions: UInt8[np.ndarray, "s k"]
    rewards: Float[np.ndarray, "s"]
    terminals: Bool[np.ndarray, "s"]
    valid: Bool[np.ndarray, "t"]
    metadata: dict[str, Any] = field(default_factory=dict)
    labelled: bool = True
    rewarded: bool = True
    counters: dict[str, Integer[np.ndarray, " t"]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        frames, steps = len(self.frames), len(self.rewards)
        assert self.frames.dtype == np.uint8 and self.frames.ndim == 4 and self.frames.shape[3] == 3, self.frames.shape
        assert self.actions.dtype == np.uint8 and self.actions.ndim == 2, (self.actions.dtype, self.actions.shape)
        assert frames == steps + 1 == len(self.valid), f"{frames} frames, {steps} steps, {len(self.valid)} valid bits"
        assert len(self.actions) == len(self.terminals) == steps, (len(self.actions), len(self.terminals), steps)
        assert all(len(values) == frames for values in self.counters.values()), "a counter has a value at every frame"
        assert not self.terminals[:-1].any(), "an episode ends once, on its last row"

    @classmethod
    def unpaid(cls, name: str, frames: UInt8[np.ndarray, "t h w 3"], actions: UInt8[np.ndarray, "s k"]) -> Trajectory:
        """An episode that is paid nothing and does not end, with every frame valid."""
        steps = len(actions)
        return cls(name, frames, actions, np.zeros(steps, np.float32), np.zeros(steps, bool), np.ones(steps + 1, bool))

    def __len__(self) -> int:
        return len(self.frames)
