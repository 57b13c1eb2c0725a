"""`batch.align` of many episodes at once, their steps one after another, at a few operations for hundreds of episodes.

The plain reference is `align`, to which this is equal bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from fastdreamer.latents.batch import EpisodeArrays
from fastdreamer.latents.episode_on_disk import EpisodeOnDisk
from fastdreamer.shapes import LatentClock

AT_ONCE = 256  # episodes, which bounds the memory that it takes in between


def joined(episodes: Sequence[EpisodeArrays], clock: LatentClock, frame_discount: float = 1.0) -> dict[str, Tensor]:
    """The fields of `Batch` but latents, (all steps, ...); labelled and task are (episodes,).

    Raises:
        ValueError: as `align`.
    """
    groups = [episodes[first : first + AT_ONCE] for first in range(0, len(episodes), AT_ONCE)]
    parts = [_joined(group, clock, frame_discount) for group in groups]
    return {name: torch.cat([part.pop(name) for part in parts]) for name in list(parts[0])}


def joined_rewards(
    episodes: Sequence[EpisodeArrays], clock: LatentClock, frame_discount: float
) -> tuple[Float[Tensor, " s"], Bool[Tensor, " s"]]:
    """`batch.arriving_rewards` of many episodes, one after another."""
    groups = [episodes[first : first + AT_ONCE] for first in range(0, len(episodes), AT_ONCE)]
    parts = []
    for group in groups:
        paid = [episode.rewards.double() for episode in group]
        parts.append(_rewards(_Rows([1 + len(values) for values in paid], clock), paid, group, frame_discount))
    rewards, known = zip(*parts, strict=True)
    return torch.cat(rewards), torch.cat(known)


def count_steps(episode: EpisodeArrays) -> int:
    """Latent steps of an episode; of one on disk without reading them."""
    return episode.steps if isinstance(episode, EpisodeOnDisk) else len(episode.latents)


class _Rows:
    """Rows of c frames, of some episodes one after another: row s of an episode is the chunk taken at its step s.

    Args:
        frames: each episode's length in frames.
        clock: their latent clock.
    """

    def __init__(self, frames: Sequence[int], clock: LatentClock) -> None:
        self.chunk = clock.frames_per_latent
        self.frames = torch.tensor(frames)
        self.steps: Int[Tensor, " e"] = torch.tensor([clock.steps(count) for count in frames])
        self.first = self.steps.cumsum(0) - self.steps
        self.total = int(self.steps.sum())
        self._taken = self._slots(self.frames - 1, 0)
        self.known = self.taken(torch.ones(len(self._taken), dtype=torch.bool))

    def taken(self, values: Tensor) -> Tensor:
        """What comes with each transition, in the rows where it is taken; zeros where there is none."""
        return self._laid(values, self._taken)

    def shown(self, values: Tensor) -> Tensor:
        """What comes with each frame, in the rows of the steps that cover them; step 0 covers one frame, the last."""
        return self._laid(values, self._slots(self.frames, self.chunk - 1))

    def arriving(self, x: Tensor) -> Tensor:
        """Shifts a value a row from the step where it is taken to the step it leads into.

        Nothing is taken at an episode's last step, so the next episode's first gets the zero that is due to it.
        """
        return torch.cat([torch.zeros_like(x[:1]), x[:-1]])

    def each(self, values: Sequence[bool]) -> Bool[Tensor, " s"]:
        """What is said of each episode, for every row."""
        return torch.tensor(values).repeat_interleave(self.steps)

    def _slots(self, counts: Int[Tensor, " e"], lead: int) -> Int[Tensor, " f"]:
        ahead = self.first * self.chunk + lead - (counts.cumsum(0) - counts)
        return torch.arange(int(counts.sum())) + ahead.repeat_interleave(counts)

    def _laid(self, values: Tensor, slots: Int[Tensor, " f"]) -> Tensor:
        laid = values.new_zeros(self.total * self.chunk, *values.shape[1:])
        laid[slots] = values
        return laid.view(self.total, self.chunk, *values.shape[1:])


def _joined(episodes: Sequence[EpisodeArrays], clock: LatentClock, frame_discount: float) -> dict[str, Tensor]:
    found = [(e.valid.bool(), e.actions, e.terminals.bool(), e.rewards.double()) for e in episodes]  # one by one
    valid, actions, terminals, paid = zip(*found, strict=True)
    rows, c = _Rows([len(bits) for bits in valid], clock), clock.frames_per_latent
    for episode, frames, steps in zip(episodes, rows.frames.tolist(), rows.steps.tolist(), strict=True):
        if (count := count_steps(episode)) != steps:
            raise ValueError(f"{count} latents for {frames} frames at {c} a step; the clock gives {steps}")
    taken = rows.taken(torch.cat(actions))
    ends = rows.taken(torch.cat(terminals)).any(1)
    real = rows.shown(torch.cat(valid))
    real[rows.first, : c - 1] = True
    labelled = rows.each([bool(episode.labelled) for episode in episodes])[:, None]
    rewards, reward_valid = _rewards(rows, paid, episodes, frame_discount)
    step = torch.arange(rows.total) - rows.first.repeat_interleave(rows.steps)
    return dict(
        positions=torch.zeros_like(step) if c == 1 else (1 + (step - 1) % (clock.positions - 1)) * (step > 0),
        target_valid=real.all(1),
        actions=rows.arriving(taken),
        action_valid=rows.arriving(rows.known) & labelled,
        next_actions=taken,
        next_valid=rows.known & labelled,
        rewards=rewards,
        continues=1.0 - rows.arriving(ends).float(),
        reward_valid=reward_valid,
        labelled=torch.tensor([bool(episode.labelled) for episode in episodes]),
        task=torch.tensor([episode.task for episode in episodes]),
    )


def _rewards(
    rows: _Rows, paid: Sequence[Tensor], episodes: Sequence[EpisodeArrays], frame_discount: float
) -> tuple[Tensor, Tensor]:
    discounts = frame_discount ** torch.arange(rows.chunk, dtype=torch.float64)
    sums = (rows.taken(torch.cat(list(paid))) * rows.known * discounts).sum(1).float()
    is_known = rows.each([bool(episode.rewarded) for episode in episodes])
    return rows.arriving(sums), rows.arriving(rows.known.any(1)) & is_known
