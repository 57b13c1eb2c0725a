"""A moment of a session: all that is needed to show it, and to go on from it in the same way again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from jaxtyping import Bool, Float, Int, UInt8
from numpy import ndarray
from torch import Tensor

from fastdreamer.play.dream import DreamState
from fastdreamer.play.thoughts import DIGITS, Mind


@dataclass(frozen=True)
class View:
    """What is shown of a moment.

    Attributes:
        real: the frames of the newest real step; None where nobody knows them.
        dream: the frames of the newest step that was dreamt.
        said: everything else, as JSON can hold it.
    """

    real: UInt8[ndarray, "c h w 3"] | None
    dream: UInt8[ndarray, "c h w 3"]
    said: dict[str, Any]


class RealStep(NamedTuple):
    """A latent step that really happened, and what led into it."""

    latents: Float[Tensor, "n z"]  # normalised
    actions: Int[Tensor, "c k"]
    known: Bool[Tensor, " c"]


class Unseen(NamedTuple):
    """A step that really happened and that the encoder has not looked at, and what led into it."""

    frames: UInt8[ndarray, "c h w 3"]
    actions: Int[Tensor, "c k"]
    known: Bool[Tensor, " c"]


@dataclass(frozen=True)
class Real:
    """The real side of a moment.

    Attributes:
        past: the last real steps, as many as the world model sees, the newest last.
        window: the frames of the tokenizer's window until now, a piece a step; pieces are shared by moments.
        shown: the newest step's frames.
        state: what puts the environment back here.
        unseen: the newest step, where `past` and `window` end before it.
    """

    past: tuple[RealStep, ...]
    window: tuple[UInt8[ndarray, "t h w 3"], ...]
    shown: UInt8[ndarray, "c s s 3"]
    state: Any
    unseen: Unseen | None = None


@dataclass(frozen=True)
class Fork:
    """The dream of a moment.

    Attributes:
        latents: the real state that it began from.
        state: what puts it back here.
        dreamed: steps since it began.
        is_alone: whether it goes on where the real episode is over.
    """

    latents: Float[Tensor, "n z"]
    state: DreamState
    dreamed: int
    is_alone: bool


@dataclass(frozen=True)
class Moment:
    """A moment of a session.

    Attributes:
        step: latent steps of the episode.
        chunk: the actions that led here, and `count` of them were played; None at a start.
        trace: what was done, for agents that remember it.
        paid: what each task paid for these actions; None where that is not known. `returns`: all until now.
        over: how the real episode ended, if it did.
        minds: what the agents think, by phase and side; None: they were not asked yet. `before`: what they thought a
            step before.
        task: number of the TASK token that they were asked with.
        played: actions played in the environment until now.
    """

    step: int
    real: Real | None
    fork: Fork
    dreamt: UInt8[ndarray, "c s s 3"]
    chunk: Int[ndarray, "c k"] | None
    count: int
    trace: Float[Tensor, "1 h"] | None
    paid: Mapping[str, float] | None
    returns: Mapping[str, float] | None
    over: str | None
    before: Mapping[int, Mapping[str, Mind]] = field(default_factory=dict)
    minds: Mapping[int, Mapping[str, Mind]] | None = None
    task: int = 0
    played: int = 0

    @property
    def said(self) -> dict[str, Any]:
        """What does not depend on the session's settings."""
        led = [] if self.chunk is None else self.chunk[: self.count].tolist()
        return {"step": self.step, "dreamed": self.fork.dreamed, "action": led}

    @property
    def is_whole(self) -> bool:
        """Whether the encoder has looked at it and the agents have thought of it."""
        return self.minds is not None and (self.real is None or self.real.unseen is None)

    @property
    def drift(self) -> dict[str, float | None]:
        """Mean squared distances in normalised latents: dream and reality now, and reality at the fork and now."""
        if self.real is None or self.real.unseen is not None:
            return {"dream": None, "copy": None}
        real = self.real.past[-1].latents
        apart = {"dream": self.fork.state.latents[1], "copy": self.fork.latents}
        return {name: round(float((latents - real).square().mean()), DIGITS) for name, latents in apart.items()}
