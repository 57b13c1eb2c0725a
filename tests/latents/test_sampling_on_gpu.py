"""On a GPU: the store lies there, batches are cut there or come from pinned memory, and are those of the CPU."""

from __future__ import annotations

from dataclasses import fields

import pytest
import torch
from latents.episodes import CLOCK, MIXED, equal, mixed, sampler

from fastdreamer.config import SamplingConfig
from fastdreamer.latents.batch import Batch
from fastdreamer.latents.crop_sampler import CropSampler
from fastdreamer.latents.loader import Loader

pytestmark = pytest.mark.gpu
CPU = torch.device("cpu")


def test_a_card_holds_the_store_and_cuts_the_same_batches() -> None:
    def lying(device: torch.device) -> CropSampler:
        return CropSampler(mixed(), CLOCK, 4, 8, 0, sampling=SamplingConfig(**MIXED), device=device)

    plain = lying(CPU)
    gpu = torch.device("cuda", torch.cuda.current_device())
    resident = lying(gpu)
    for number in range(20):
        batch = resident.batch(number)
        assert all(getattr(batch, f.name).device == gpu for f in fields(Batch))
        assert equal(batch.to(CPU), plain.batch(number))


@pytest.mark.parametrize("ahead", [0, 2])
def test_batches_reach_the_card_from_pinned_memory(ahead: int) -> None:
    with Loader(sampler(mixed(), **MIXED), torch.device("cuda"), ahead) as loader:
        assert loader._make(0).latents.is_pinned()
        for number in range(20):
            assert equal(loader.draw().to(CPU), loader.sampler.batch(number))
