"""The latents that training reads: every step of its episodes in RAM, on disk, or on the GPU."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from fastdreamer.latents.batch import MASKS, WIDE, Batch, EpisodeArrays
from fastdreamer.latents.episode_on_disk import EpisodeOnDisk
from fastdreamer.latents.joined import joined, joined_rewards
from fastdreamer.shapes import CHANNELS, TOKENS, LatentClock

PER_EPISODE = frozenset({"labelled", "task"})
PER_TASK = ("rewards", "reward_valid")


class ResidentSteps:
    """The steps of some episodes, one after another, from which crops are cut by index.

    What is small (actions, rewards, masks) is one tensor over all steps, so that a batch is one gather a field. Latents
    are such a tensor on the GPU alone: in host memory crops are copied out of the episodes, which costs no second copy
    of the store; of one on disk the crop alone is read.

    Args:
        episodes: what crops are cut from.
        clock: their latent clock.
        frame_discount: see `align`.
        device: the device that cuts crops; a GPU then holds the steps.
        tasks: the same episodes with the rewards of each of several tasks.

    Attributes:
        device: the device on which crops are cut and come out.
        steps: latent steps of each episode.
        fields: the aligned episodes' fields but latents, (all steps, ...) or (episodes,); with tasks, rewards and
            reward_valid are (all steps, tasks).
    """

    def __init__(
        self,
        episodes: Sequence[EpisodeArrays],
        clock: LatentClock,
        frame_discount: float = 1.0,
        device: torch.device | None = None,
        tasks: Sequence[Sequence[EpisodeArrays]] = (),
    ) -> None:
        if not episodes:
            raise ValueError("no episodes to cut crops from")
        self.device = device or torch.device("cpu")
        values = joined(episodes, clock, frame_discount)
        self.steps: Int[Tensor, " e"] = torch.tensor([clock.steps(len(episode.valid)) for episode in episodes])
        self._last = self.steps.cumsum(0) - 1
        self._latents = [episode if isinstance(episode, EpisodeOnDisk) else episode.latents for episode in episodes]
        # Joined on the host: the episodes one by one would leave their segments behind in the GPU's allocator.
        whole = torch.cat([episode.latents for episode in episodes]) if self.device.type != "cpu" else None
        self._on_gpu = None if whole is None else whole.to(self.device)
        paid = [joined_rewards(view, clock, frame_discount) for view in tasks]
        for place, name in enumerate(PER_TASK if tasks else ()):
            values[name] = torch.stack([columns[place] for columns in paid], -1)
        self.fields: dict[str, Tensor] = {name: value.to(self.device) for name, value in values.items()}

    def clone_only(self, chosen: Bool[Tensor, " e"]) -> None:
        """Actions taken in the other episodes are not to be cloned; those that led into a step stay known."""
        self.fields["next_valid"] &= chosen.repeat_interleave(self.steps).to(self.device)[:, None]

    def cut(
        self,
        episodes: Int[Tensor, " b"],
        starts: Int[Tensor, " b"],
        length: int,
        tasks: Int[Tensor, " b"] | None = None,
    ) -> Batch:
        """Steps start .. start+length-1 of each episode; past an episode's end the last step repeats, masks False.

        Args:
            episodes, starts: index of each crop's episode and its first step, on the CPU.
            length: steps, the same of every crop.
            tasks: the task of each crop, where there are several.
        """
        last = self._last[episodes]
        first = last + 1 - self.steps[episodes] + starts
        task = torch.zeros_like(episodes) if tasks is None else tasks
        first, last, which, task = torch.stack([first, last, episodes, task]).to(self.device, non_blocking=True)
        rows = first[:, None] + torch.arange(length, device=self.device)
        inside = rows <= last[:, None]
        rows = torch.minimum(rows, last[:, None])
        values = {name: value[which if name in PER_EPISODE else rows] for name, value in self.fields.items()}
        if tasks is not None:
            crops = torch.arange(len(tasks), device=self.device)
            values |= {name: values[name][crops, :, task] for name in PER_TASK} | {"task": task}
        for name in MASKS:
            values[name] &= inside if values[name].ndim == 2 else inside[..., None]
        latents = self._cut_on_host(episodes, starts, length) if self._on_gpu is None else self._on_gpu[rows]
        values["latents"] = latents
        return Batch(**{name: value.to(WIDE.get(name, value.dtype)) for name, value in values.items()})

    def _cut_on_host(
        self, episodes: Int[Tensor, " b"], starts: Int[Tensor, " b"], length: int
    ) -> Float[Tensor, "b l n z"]:
        crops = torch.empty(len(starts), length, TOKENS, CHANNELS)
        for crop, episode, start in zip(crops, episodes.tolist(), starts.tolist(), strict=True):
            found, end = self._latents[episode], start + length
            part = found[start:end] if isinstance(found, Tensor) else found.some_latents(start, end)
            crop[: len(part)] = part
            crop[len(part) :] = part[-1]
        return crops
