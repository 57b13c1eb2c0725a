"""The real side: a Crafter world that can be put back to any moment, or a recording as long as it is followed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from jaxtyping import Float32, Int, UInt8
from numpy import ndarray

from fastdreamer.envs.crafter import CrafterEnv
from fastdreamer.play.film import Footage
from fastdreamer.recordings.minerl import RECORDER
from fastdreamer.recordings.tasks import TaskMeter, task_rewards

DIED, CUT = "died", "cut"
LONGEST = 10_000
"""Actions of an episode, as in Crafter itself."""


@dataclass(frozen=True)
class Arrived:
    """What a chunk of c actions led to.

    Attributes:
        frames: those after each action; behind an episode's end the last one again.
        count: actions that were played.
        rewards: the environment's own, for each of these.
        counters: what the game counted after each; empty where it is not told.
        paid: what each task paid for all of them; None where rewards are unknown.
        over: how the episode ended, if it did.
    """

    frames: UInt8[ndarray, "c h w 3"]
    count: int
    rewards: Float32[ndarray, " m"]
    counters: Sequence[Mapping[str, int]]
    paid: Mapping[str, float] | None
    over: str | None


class Reality(Protocol):
    """The side on which actions are really played.

    Attributes:
        name: the world's, or the recording's.
    """

    name: str

    def step(self, chunk: Int[ndarray, "c k"]) -> Arrived | None:
        """Play a chunk; None where nobody knows what it leads to."""
        ...

    def save(self) -> Any:
        """The moment, for `restore`."""
        ...

    def restore(self, state: Any) -> None:
        """Put back a moment."""
        ...


class CrafterReality:
    """The Crafter world of a seed, from its first frame on.

    Args:
        seed: the world and its chance.
        tasks: what is paid besides (see `recordings.tasks`).
        longest: actions until the episode is cut.

    Attributes:
        frame: the newest frame.
        over: how the episode ended, if it did.
    """

    def __init__(self, seed: int, tasks: Sequence[str], longest: int = LONGEST) -> None:
        self.seed, self.name, self.longest = seed, f"crafter-{seed}", longest
        self._env = CrafterEnv(seed, longest)
        self.frame = self._env.reset()
        self._meters = {task: TaskMeter(task, self._env.counters) for task in tasks}
        self.over: str | None = None

    @property
    def counters(self) -> Mapping[str, int]:
        """What the game counts now."""
        return self._env.counters

    @property
    def unlocked(self) -> list[str]:
        """The achievements so far."""
        return self._env.unlocked

    def step(self, chunk: Int[ndarray, "c k"]) -> Arrived | None:
        """Play a chunk, to the episode's end at most."""
        if self.over is not None:
            return None
        frames, rewards, counters = list[ndarray](), list[float](), list[Mapping[str, int]]()
        paid = dict.fromkeys(self._meters, 0.0)
        for action in chunk:
            self.frame, reward, terminated, truncated, info = self._env.step(action)
            frames.append(self.frame)
            rewards.append(reward)
            counters.append(info["counters"])
            for task, meter in self._meters.items():
                paid[task] += meter.pay(reward, counters[-1])
            if terminated or truncated:
                self.over = DIED if terminated else CUT
                break
        count = len(frames)
        frames += [self.frame] * (len(chunk) - count)
        return Arrived(np.stack(frames), count, np.array(rewards, np.float32), counters, paid, self.over)

    def save(self) -> Any:
        """The world and its meters; of an episode that is over, its end alone."""
        world = self._env.save() if self.over is None else None
        return world, deepcopy(self._meters), self.frame, self.over

    def restore(self, state: Any) -> None:
        """Put back a moment of this world."""
        world, meters, self.frame, self.over = state
        self._meters = deepcopy(meters)
        if world is not None:
            self._env.restore(world)


class RecordedReality:
    """A recording alone: what it shows is real until other actions are taken than were recorded.

    Args:
        footage: the recording.
        tasks: what is paid besides.
        step: the latent step that it is at.
    """

    def __init__(self, footage: Footage, tasks: Sequence[str], step: int) -> None:
        self.footage, self.name = footage, footage.name
        self._at, self._is_followed = step, True
        labels = footage.labels
        self._paid = {task: task_rewards(task, labels.rewards, labels.counters) for task in tasks}

    def step(self, chunk: Int[ndarray, "c k"]) -> Arrived | None:
        """The recording's next frames, where it was led by these actions."""
        footage, labels, step = self.footage, self.footage.labels, self._at + 1
        self._at = step
        self._is_followed &= step < footage.steps
        if not self._is_followed:
            return None
        recorded = footage.chunk(step)
        count = len(recorded)
        self._is_followed = labels.labelled and np.array_equal(recorded, chunk[:count])
        if not self._is_followed:
            return None
        c = footage.clock.frames_per_latent
        rows = slice(c * (step - 1), c * (step - 1) + count)
        paid = {task: float(values[rows].sum()) for task, values in self._paid.items()} if labels.rewarded else None
        return Arrived(footage.step_frames(step), count, labels.rewards[rows], (), paid, None)

    def save(self) -> Any:
        """The step that it is at, and whether it was followed until there."""
        return self._at, self._is_followed

    def restore(self, state: Any) -> None:
        """Put back a moment."""
        self._at, self._is_followed = state


def replayed(footage: Footage, tasks: Sequence[str], step: int, longest: int = LONGEST) -> CrafterReality | None:
    """The world that was recorded, played from its seed to a latent step by the recorded actions.

    None where it was not recorded from a seed here, or does not show what the recording shows.
    """
    seed, labels = footage.metadata.get("seed"), footage.labels
    is_ours = footage.metadata.get("recorder") == RECORDER and type(seed) is int and 0 <= seed < 2**31
    if not is_ours or not labels.labelled:
        return None
    world = CrafterReality(seed, tasks, longest)  # type: ignore[arg-type]
    if not np.array_equal(world.frame, footage.frames(0, 1)[0]):
        return None
    for number in range(1, step + 1):
        arrived = world.step(footage.chunk(number).astype(np.int64))
        if arrived is None or not np.array_equal(arrived.frames, footage.step_frames(number)[: len(arrived.frames)]):
            return None
    return world
