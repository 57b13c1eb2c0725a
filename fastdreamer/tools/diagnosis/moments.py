"""Moments of real play that can be played on from: with the real latent steps before each, and the saved world.

Every world is played once and gives one moment, drawn evenly from all its latent steps that qualify (a reservoir of
one), so that an early death needs no second try. With a window of several latent steps a moment is the first of its
window: all moments then have the same place in the tokenizer's window, and go through it together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from fastdreamer.envs.branching import BranchPool, Played, Snapshot
from fastdreamer.evaluation.closed_loop import Encoder, Observer, Policy
from fastdreamer.shapes import LatentClock


@dataclass(frozen=True)
class Moment:
    """A moment and what led to it.

    Attributes:
        frames: the last ones, up to the moment; see `Reach`.
        actions: the chunks that led into the last latent steps.
        known: whether there was such a chunk: an episode's first step has none.
    """

    snapshot: Snapshot
    frames: UInt8[np.ndarray, "t h w 3"]
    actions: Int[np.ndarray, "l c k"]
    known: Bool[np.ndarray, " l"]


@dataclass(frozen=True)
class Reach:
    """How far back a moment looks for `context` latent steps: a first frame, and `pushes` chunks after it."""

    clock: LatentClock
    context: int

    @property
    def every(self) -> int:
        """Latent steps from one possible moment to the next."""
        return max(1, self.clock.positions - 1)

    @property
    def pushes(self) -> int:
        """Chunks to push, counted from the first frame of a window: its own latent is only an episode's first."""
        if self.clock.frames_per_latent == 1:
            return self.context - 1
        return 1 + -(-(self.context - 1) // self.every) * self.every

    def qualifies(self, step: int) -> bool:
        """Whether an episode's latent step can be a moment."""
        return step >= max(1, self.pushes) and (step - self.pushes) % self.every == 0


class Player(Protocol):
    """Decides what all worlds do, chunk by chunk."""

    def begin(self, frames: UInt8[np.ndarray, "e h w 3"]) -> None: ...

    def act(self) -> Int[np.ndarray, "e c k"]: ...

    def see(self, played: Played) -> None: ...

    @property
    def goes_on(self) -> Bool[np.ndarray, " e"]: ...


class Replay:
    """Repeats recorded actions; `is_true` says of each world whether its rewards were those recorded."""

    def __init__(self, episodes: Sequence[tuple[np.ndarray, np.ndarray]], chunk: int) -> None:
        self.episodes, self.chunk, self.step = episodes, chunk, 0
        self.is_true = np.ones(len(episodes), bool)

    def begin(self, frames: UInt8[np.ndarray, "e h w 3"]) -> None:
        """Begin without looking at the frames."""

    def act(self) -> Int[np.ndarray, "e c k"]:
        """The next chunk; no-ops behind the end."""
        chunks = []
        for actions, _ in self.episodes:
            chunk = actions[self.step * self.chunk : (self.step + 1) * self.chunk].astype(np.int64)
            chunks.append(np.pad(chunk, ((0, self.chunk - len(chunk)), (0, 0))))
        return np.stack(chunks)

    def see(self, played: Played) -> None:
        """Compare rewards, of whole chunks."""
        at = slice(self.step * self.chunk, (self.step + 1) * self.chunk)
        for world, (_, rewards) in enumerate(self.episodes):
            if len(rewards[at]) == self.chunk and not np.allclose(played.recorded[world], rewards[at], atol=1e-4):
                self.is_true[world] = False
        self.step += 1

    @property
    def goes_on(self) -> Bool[np.ndarray, " e"]:
        """Mask of the worlds in which another whole chunk was recorded, of play that could be repeated."""
        whole = [len(actions) >= (self.step + 1) * self.chunk for actions, _ in self.episodes]
        return np.array(whole) & self.is_true


class Live:
    """A policy plays, for at most `steps` latent steps."""

    def __init__(self, policy: Policy, encoder: Encoder, chunk: int, steps: int) -> None:
        self.policy, self.encoder, self.chunk, self.left = policy, encoder, chunk, steps

    def begin(self, frames: UInt8[np.ndarray, "e h w 3"]) -> None:
        """Take in the first frames."""
        self.policy.reset()
        self.observer = Observer(self.encoder, frames, self.chunk)
        self.worlds = len(frames)

    def act(self) -> Int[np.ndarray, "e c k"]:
        """One chunk of actions for every world."""
        return self.policy.act(self.observer.latents, self.observer.position)

    def see(self, played: Played) -> None:
        """Take in the frames that followed."""
        self.observer.observe(list(played.frames.swapaxes(0, 1)))
        self.left -= 1

    @property
    def goes_on(self) -> Bool[np.ndarray, " e"]:
        """Mask of all worlds, until the steps are over."""
        return np.full(self.worlds, self.left > 0)


def collect(
    pool: BranchPool,
    seeds: Sequence[int],
    player: Player,
    reach: Reach,
    chance: np.random.Generator,
    tell: Callable[[int], None],
) -> list[Moment | None]:
    """A moment of each world, drawn by `chance`; None where it ended before one qualified. Steps played are told."""
    frames = pool.start(seeds)
    player.begin(frames)
    film, chunks = [frames[:, None]], list[np.ndarray]()
    count, seen, step = len(seeds), np.zeros(len(seeds), int), 0
    moments: list[Moment | None] = [None] * count
    active = player.goes_on
    while active.any():
        chunk = player.act()
        played = pool.step(chunk, active)
        player.see(played)
        film = [*film, played.frames][-reach.pushes - 1 :]
        chunks = [*chunks, chunk][-reach.context :]
        step += 1
        tell(int(active.sum()))
        active = active & ~played.ended
        if reach.qualifies(step):
            seen += active
            wanted = active & (chance.random(count) * seen < 1)
            for world, snapshot in pool.save(wanted).items():
                moments[world] = _moment(snapshot, [part[world] for part in film], [c[world] for c in chunks], reach)
        active = active & player.goes_on
    return moments


def _moment(snapshot: Snapshot, film: Sequence[np.ndarray], chunks: Sequence[np.ndarray], reach: Reach) -> Moment:
    actions = np.stack([np.zeros_like(chunks[0])] * (reach.context - len(chunks)) + [*chunks])
    known = np.arange(reach.context) >= reach.context - len(chunks)
    return Moment(snapshot, np.concatenate([film[0][-1:], *film[1:]]), actions, known)


def encode(
    encoder: Encoder, moments: Sequence[Moment], reach: Reach
) -> tuple[Float[Tensor, "e l n z"], Int[Tensor, " l"]]:
    """The raw latents of the steps up to each moment, and the steps' positions; the encoder stands at the moments."""
    frames, chunk = np.stack([moment.frames for moment in moments]), reach.clock.frames_per_latent
    latents, positions = [encoder.reset(torch.from_numpy(frames[:, 0]))], [encoder.position]
    for push in range(reach.pushes):
        at = slice(1 + push * chunk, 1 + (push + 1) * chunk)
        latents.append(encoder.push(torch.from_numpy(frames[:, at])))
        positions.append(encoder.position)
    return torch.stack(latents[-reach.context :], 1), torch.tensor(positions[-reach.context :])
