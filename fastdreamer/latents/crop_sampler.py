"""Choice of the crops of a batch: batch number i is a function of the seed and i alone, so that a run resumes exactly.

Lengths: many short batches and an occasional long one cost less than long ones alone and still teach the whole window
(Dreamer 4, arXiv:2509.24527, section 3.4). Rows: unlabelled video at a stated share, episodes by their reward at
another, and for the rest every start of every episode once an epoch. Of several tasks each crop has one, in equal
shares.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from math import ceil

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from fastdreamer.config import SamplingConfig
from fastdreamer.latents.batch import Batch, EpisodeArrays
from fastdreamer.latents.resident import ResidentSteps
from fastdreamer.latents.schedule import Share, Starts, derived_seed
from fastdreamer.shapes import LatentClock


class CropSampler:
    """Batches of crops by their number.

    A single-step batch has its action masked, as at an episode's start: with it, a step without a past is what the
    first step of every longer crop is already; without it, the model learns to make a first frame out of nothing.

    Args:
        episodes: what crops are cut from.
        clock: their latent clock.
        length: steps of a crop (of a long one).
        batch_size: crops a batch, whatever their length.
        seed: the seed of every order and share.
        frame_discount: discount of rewards inside a chunk, see `align`.
        sampling: lengths and shares; by default long crops alone. Where all episodes are labelled, or none is, its
            `unlabelled` says nothing.
        device: the device that cuts crops; a GPU then holds the episodes.
        tasks: the same episodes with the rewards of each of several tasks; empty: the episodes' own rewards and tasks.
        ranked: the same episodes with the rewards by which `sampling.clone_top` chooses; empty: the trained task's.

    Raises:
        ValueError: without episodes, or where episodes are to be drawn or chosen by rewards that they do not have.
    """

    def __init__(
        self,
        episodes: Sequence[EpisodeArrays],
        clock: LatentClock,
        length: int,
        batch_size: int,
        seed: int,
        frame_discount: float = 1.0,
        sampling: SamplingConfig | None = None,
        device: torch.device | None = None,
        tasks: Sequence[Sequence[EpisodeArrays]] = (),
        ranked: Sequence[EpisodeArrays] = (),
    ) -> None:
        self.table = ResidentSteps(episodes, clock, frame_discount, device, tasks)
        self.task_count = len(tasks)
        self.batch_size, self.seed = batch_size, seed
        self.sampling = sampling = sampling or SamplingConfig()
        labelled = [i for i, episode in enumerate(episodes) if episode.labelled]
        unlabelled = [i for i, episode in enumerate(episodes) if not episode.labelled]
        views = tasks or [episodes]
        share = float(not labelled) if not (labelled and unlabelled) else sampling.unlabelled
        if sampling.reward_weighted and share < 1:
            self._rewards = torch.stack([torch.stack([total_reward(view[i]) for i in labelled]) for view in views])
            if not self._rewards.any(1).all():
                raise ValueError("no labelled episode has a reward to be drawn by")
        self._cloned: Tensor | None = None
        if sampling.clone_top < 1:
            self._cloned = torch.stack([best(ranked or view, sampling.clone_top) for view in views])
            self.table.clone_only(self._cloned.any(0))
        self._unlabelled = Share(share, derived_seed(seed, "unlabelled"))
        self._weighted = Share(sampling.reward_weighted, derived_seed(seed, "weighted"))
        self._single = Share(sampling.single_step, derived_seed(seed, "single"))
        self.lengths = {"long": length}
        if sampling.short_window:
            self.lengths["short"] = sampling.short_window
        if sampling.single_step:
            self.lengths["single"] = 1
        self._labelled_starts, self._unlabelled_starts = (
            {
                kind: Starts(group, self.table.steps, steps, derived_seed(seed, kind, name))
                for kind, steps in self.lengths.items()
                if group
            }
            for name, group in (("labelled", labelled), ("unlabelled", unlabelled))
        )

    def kind(self, number: int) -> tuple[str, int]:
        """Whether batch `number` is single, short or long, and how many of that kind come before it."""
        singles = self._single.before(number)
        if self._single.before(number + 1) > singles:
            return "single", singles
        others = number - singles
        if not self.sampling.short_window:
            return "long", others
        before, place = divmod(others, self.sampling.long_every)
        return ("long", before) if place == self.sampling.long_every - 1 else ("short", others - before)

    def batch(self, number: int) -> Batch:
        """Batch `number` of the run, on the device where the crops are cut."""
        kind, before = self.kind(number)
        first, last = before * self.batch_size, (before + 1) * self.batch_size
        unlabelled = self._unlabelled.before(first), self._unlabelled.before(last)
        labelled = first - unlabelled[0], last - unlabelled[1]
        weighted = self._weighted.before(labelled[0]), self._weighted.before(labelled[1])
        plain = labelled[0] - weighted[0], labelled[1] - weighted[1]
        tasks = self.tasks(number)
        task = torch.zeros(self.batch_size, dtype=torch.int64) if tasks is None else tasks
        parts: list[tuple[Tensor, Tensor]] = []
        if unlabelled[1] > unlabelled[0]:
            parts.append(self._unlabelled_starts[kind].take(unlabelled[0], unlabelled[1] - unlabelled[0]))
        if weighted[1] > weighted[0]:
            generator = torch.Generator().manual_seed(derived_seed(self.seed, "weighted", number))
            before = unlabelled[1] - unlabelled[0]
            picks = self._by_reward(task[before : before + weighted[1] - weighted[0]], generator)
            parts.append(self._labelled_starts[kind].within(picks, generator))
        if plain[1] > plain[0]:
            parts.append(self._labelled_starts[kind].take(plain[0], plain[1] - plain[0]))
        episodes, starts = (torch.cat(values) for values in zip(*parts, strict=True))
        batch = self.table.cut(episodes, starts, self.lengths[kind], tasks)
        if self._cloned is not None and tasks is not None:
            cloned = self._cloned[task, episodes].to(batch.next_valid.device)
            batch = replace(batch, next_valid=batch.next_valid & cloned[:, None, None])
        return replace(batch, action_valid=torch.zeros_like(batch.action_valid)) if kind == "single" else batch

    def tasks(self, number: int) -> Int[Tensor, " b"] | None:
        """The task of each crop of batch `number`, in equal shares over the run; None without several tasks."""
        if not self.task_count:
            return None
        dealt = torch.arange(number * self.batch_size, (number + 1) * self.batch_size) % self.task_count
        generator = torch.Generator().manual_seed(derived_seed(self.seed, "tasks", number))
        return dealt[torch.randperm(self.batch_size, generator=generator)]

    def _by_reward(self, tasks: Int[Tensor, " r"], generator: torch.Generator) -> Int[Tensor, " r"]:
        """A place among the labelled episodes for each of the tasks, by the task's rewards."""
        if not self.task_count:
            return torch.multinomial(self._rewards[0], len(tasks), replacement=True, generator=generator)
        return torch.multinomial(self._rewards[tasks], 1, generator=generator).squeeze(1)


def total_reward(episode: EpisodeArrays) -> Tensor:
    """Sum of |reward| over an episode; 0 where rewards are unknown."""
    return episode.rewards.double().abs().sum() * episode.rewarded


def best(episodes: Sequence[EpisodeArrays], share: float) -> Bool[Tensor, " e"]:
    """The share of the labelled episodes that return most; where returns are alike, the earlier. Unknown returns: none.

    Source: "%BC" of Chen et al. 2021, arXiv:2106.01345, section 5.1.

    Raises:
        ValueError: if no labelled episode has rewards.
    """
    known = [i for i, episode in enumerate(episodes) if episode.labelled and episode.rewarded]
    if not known:
        raise ValueError("no labelled episode has rewards to choose what to clone by")
    returns = [float(episodes[i].rewards.double().sum()) for i in known]
    ranked = sorted(range(len(known)), key=lambda place: -returns[place])
    chosen = torch.zeros(len(episodes), dtype=torch.bool)
    chosen[[known[place] for place in ranked[: ceil(Fraction(str(share)) * len(known))]]] = True
    return chosen
