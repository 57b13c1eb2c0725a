"""Episodes whose every number says where it comes from, and samplers of them."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import torch

from fastdreamer.config import SamplingConfig
from fastdreamer.latents.batch import Batch
from fastdreamer.latents.crop_sampler import CropSampler
from fastdreamer.shapes import LatentClock


@dataclass(frozen=True)
class Numbered:
    """Action i is i, reward i is i + 1, the latents of step k are `offset` + k."""

    latents: torch.Tensor
    actions: torch.Tensor
    rewards: torch.Tensor
    terminals: torch.Tensor
    valid: torch.Tensor
    labelled: bool = True
    task: int = 0
    rewarded: bool = True


def numbered(frames: int, clock: LatentClock, ends: bool = True, offset: int = 0) -> Numbered:
    steps = clock.steps(frames)
    terminals = torch.zeros(frames - 1, dtype=torch.bool)
    terminals[-1:] = ends
    return Numbered(
        latents=offset + torch.arange(steps, dtype=torch.float32).view(-1, 1, 1).expand(-1, 16, 16),
        actions=torch.arange(frames - 1).view(-1, 1),
        rewards=torch.arange(frames - 1, dtype=torch.float32) + 1,
        terminals=terminals,
        valid=torch.ones(frames, dtype=torch.bool),
    )


CLOCK = LatentClock(1, 1)


def episodes(*frames: int, **changes: Any) -> list[Numbered]:
    """Episode i's steps are numbered from 1000 i."""
    return [replace(numbered(n, CLOCK, offset=1000 * i), **changes) for i, n in enumerate(frames)]


def sampler(found: list[Numbered], length: int = 4, batch_size: int = 4, seed: int = 0, **options: Any) -> CropSampler:
    return CropSampler(found, CLOCK, length, batch_size, seed, sampling=SamplingConfig(**options))


def firsts(batch: Batch) -> list[int]:
    return [int(x) for x in batch.latents[:, 0, 0, 0]]


def equal(a: Batch, b: Batch) -> bool:
    return all(torch.equal(getattr(a, f.name), getattr(b, f.name)) for f in fields(Batch))


MIXED = dict(short_window=2, long_every=3, single_step=0.2, reward_weighted=0.3, unlabelled=0.4)


def mixed() -> list[Numbered]:
    return [*episodes(12, 9), *(replace(e, labelled=False, rewarded=False) for e in episodes(10, 11))]
