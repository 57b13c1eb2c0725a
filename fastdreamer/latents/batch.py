"""Crops of episodes on the latent clock: the one place where frames' actions and rewards meet latent steps.

With c frames a step, a_i taken at frame i and leading to frame i+1, and r_i coming with that transition:
step s >= 1 is led into by the chunk a_{cs-c} .. a_{cs-1}, carries the reward sum of the same chunk, and the policy at
step s predicts a_{cs} .. a_{cs+c-1}. Step 0 of an episode has no action leading in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int, Integer
from torch import Tensor
from torch.nn import functional as F

from fastdreamer.shapes import CHANNELS, TOKENS, LatentClock


@runtime_checkable
class EpisodeArrays(Protocol):
    """What a crop is cut from: per-step latents and per-frame actions, rewards, terminals and valid bits."""

    @property
    def latents(self) -> Tensor: ...  # (L, n, z)
    @property
    def actions(self) -> Tensor: ...  # (N-1, k)
    @property
    def rewards(self) -> Tensor: ...  # (N-1,)
    @property
    def terminals(self) -> Tensor: ...  # (N-1,)
    @property
    def valid(self) -> Tensor: ...  # (N,)
    @property
    def labelled(self) -> bool: ...  # actions are known
    @property
    def rewarded(self) -> bool: ...  # rewards and terminals are known
    @property
    def task(self) -> int: ...


@dataclass(frozen=True)
class Batch:
    """A batch of crops. Rows past an episode's end are padding: every mask is False there."""

    latents: Float[Tensor, "b l n z"]  # raw pooled latents
    positions: Int[Tensor, "b l"]  # position of the step in its tokenizer window
    target_valid: Bool[Tensor, "b l"]  # every frame of the step is a real, trustworthy picture
    actions: Integer[Tensor, "b l c k"]  # the chunk that led INTO the step
    action_valid: Bool[Tensor, "b l c"]  # False all through where actions are unknown
    next_actions: Integer[Tensor, "b l c k"]  # the chunk taken AT the step
    next_valid: Bool[Tensor, "b l c"]  # in a sampler's crops: steps to be cloned, too (see SamplingConfig.clone_top)
    rewards: Float[Tensor, "b l"]  # discounted sum over the chunk that led into the step
    continues: Float[Tensor, "b l"]  # 0 where that chunk ended the episode
    reward_valid: Bool[Tensor, "b l"]  # mask of rewards and continues; False all through where they are unknown
    labelled: Bool[Tensor, " b"]  # False: actions are unknown (plain video)
    task: Int[Tensor, " b"]

    @classmethod
    def blank(
        cls, crops: int, steps: int, chunk: int, components: int, device: torch.device | None = None, known: bool = True
    ) -> Batch:
        """Labelled crops of zeros, none ends, `chunk` frames a step; actions and rewards are `known` or not."""

        def whole(*shape: int) -> Tensor:
            return torch.zeros(crops, *shape, dtype=torch.int64, device=device)

        def mask(*shape: int, value: bool = True) -> Tensor:
            return torch.full((crops, *shape), value, device=device)

        return cls(
            latents=torch.zeros(crops, steps, TOKENS, CHANNELS, device=device),
            positions=whole(steps),
            target_valid=mask(steps),
            actions=whole(steps, chunk, components),
            action_valid=mask(steps, chunk, value=known),
            next_actions=whole(steps, chunk, components),
            next_valid=mask(steps, chunk, value=known),
            rewards=torch.zeros(crops, steps, device=device),
            continues=torch.ones(crops, steps, device=device),
            reward_valid=mask(steps, value=known),
            labelled=mask(),
            task=whole(),
        )

    def to(self, device: torch.device) -> Batch:
        """The same batch on another device; a GPU copies from pinned memory while the host goes on."""
        ahead = device.type != "cpu"  # the way back would hand out memory that the GPU has yet to fill
        return replace(self, **{f.name: getattr(self, f.name).to(device, non_blocking=ahead) for f in fields(self)})

    def take(self, rows: Int[Tensor, " r"]) -> Batch:
        """The named rows; one may be named several times."""
        return replace(self, **{f.name: getattr(self, f.name)[rows] for f in fields(self)})

    def pin_memory(self) -> Batch:
        """The same batch in page-locked memory, from which a GPU copies while the host goes on."""
        return replace(self, **{f.name: getattr(self, f.name).pin_memory() for f in fields(self)})


MASKS = frozenset({"target_valid", "action_valid", "next_valid", "reward_valid"})
WIDE = {"latents": torch.float32, "actions": torch.int64, "next_actions": torch.int64}
"""What a crop holds; a store has halves and bytes."""


def align(episode: EpisodeArrays, clock: LatentClock, frame_discount: float = 1.0) -> Batch:
    """A whole episode on the latent clock, as a batch of one crop; latents and actions in the type they are stored in.

    Raises:
        ValueError: if the number of latents is not what the clock gives for the episode's frames.
    """
    frames, c = len(episode.valid), clock.frames_per_latent
    steps = clock.steps(frames)
    if len(episode.latents) != steps:
        raise ValueError(f"{len(episode.latents)} latents for {frames} frames at {c} a step; the clock gives {steps}")
    chunks = steps  # chunk s is taken at step s and leads into step s+1; the last one may be partly or wholly missing
    padding = chunks * c - (frames - 1)
    known = torch.arange(chunks * c).view(chunks, c) < frames - 1
    taken = F.pad(episode.actions, (0, 0, 0, padding)).view(chunks, c, -1)
    ends = (F.pad(episode.terminals.bool(), (0, padding)).view(chunks, c) & known).any(1)
    real = F.pad(episode.valid.bool(), (c - 1, steps * c - c + 1 - frames), value=False).view(steps, c).clone()
    real[0, : c - 1] = True  # step 0 covers one frame only

    rewards, reward_valid = arriving_rewards(episode, clock, frame_discount)
    values: dict[str, Tensor] = dict(
        latents=episode.latents,  # as stored
        positions=torch.tensor([clock.position(s) for s in range(steps)]),
        target_valid=real.all(1),
        actions=_arriving(taken),
        action_valid=_arriving(known) & episode.labelled,
        next_actions=taken,
        next_valid=known & episode.labelled,
        rewards=rewards,
        continues=1.0 - _arriving(ends).float(),
        reward_valid=reward_valid,
        labelled=torch.tensor(bool(episode.labelled)),
        task=torch.tensor(episode.task),
    )
    return Batch(**{name: value.unsqueeze(0) for name, value in values.items()})


def arriving_rewards(
    episode: EpisodeArrays, clock: LatentClock, frame_discount: float
) -> tuple[Float[Tensor, " l"], Bool[Tensor, " l"]]:
    """Discounted reward of the chunk of frames that led into each step, and whether it is known."""
    chunk, count = clock.frames_per_latent, len(episode.rewards)
    steps = clock.steps(len(episode.valid))
    known = torch.arange(steps * chunk).view(steps, chunk) < count
    discounts = frame_discount ** torch.arange(chunk, dtype=torch.float64)
    padded = F.pad(episode.rewards.double(), (0, steps * chunk - count)).view(steps, chunk)
    return _arriving((padded * known * discounts).sum(1).float()), _arriving(known.any(1)) & episode.rewarded


def _arriving(x: Tensor) -> Tensor:
    """Shifts a per-chunk value from the step where it is taken to the step it leads into."""
    return torch.cat([torch.zeros_like(x[:1]), x[:-1]])


def crop(episode: Batch, start: int, length: int) -> Batch:
    """Steps start .. start+length-1 of an aligned episode; past its end the last latent repeats with masks False."""

    def cut(name: str) -> Tensor:
        value: Tensor = getattr(episode, name)
        if value.ndim == 1:
            return value
        part = value[:, start : start + length]
        part = part.to(WIDE.get(name, part.dtype))
        missing = length - part.shape[1]
        if not missing:
            return part
        filler = part[:, -1:].expand(-1, missing, *part.shape[2:])
        return torch.cat([part, torch.zeros_like(filler) if name in MASKS else filler], 1)

    return Batch(**{f.name: cut(f.name) for f in fields(Batch)})


def stack(crops: Sequence[Batch]) -> Batch:
    """Crops of equal length as one batch."""
    return Batch(**{f.name: torch.cat([getattr(c, f.name) for c in crops]) for f in fields(Batch)})
